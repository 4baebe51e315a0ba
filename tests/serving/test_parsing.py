import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.decoding import mention_probability, parse_answer

PARSED = Vocabulary(
    [VocabularyCode("icd10cm", code, code, None, 1) for code in ["E11", "E11.9", "I10", "J18.9", "0DTJ4ZZ"]]
    + [
        VocabularyCode("icd9cm", "038.9", "icd9cm:038.9", None, 1),
        VocabularyCode("icd9cm", "403.1", "403.1", None, 1),
        VocabularyCode("icd9pcs", "40.31", "40.31", None, 1),
    ]
)


@pytest.mark.parametrize(
    ("text", "codes", "dropped"),
    [
        (" E11.9, I10", ["E11.9", "I10"], 0),
        ("e119\ni10.", ["E11.9", "I10"], 0),
        ("<think>E11.9 or J18.9? No.</think>\nI10", ["I10"], 0),
        ("The codes are: E11.9 (diabetes) and I10.", ["E11.9", "I10"], 0),
        ("I10, I10, i10", ["I10"], 0),
        ("I10, Z99.99, J18.9; ", ["I10", "J18.9"], 1),
        ("I cannot help with that.", [], 1),
        ("0dtj4zz, ICD9CM:038.9", ["0DTJ4ZZ", "icd9cm:038.9"], 0),
        ("4031", [], 1),  # a diagnosis or a procedure: nobody knows
        ("403.1, 40.31", ["403.1", "40.31"], 0),
        ("", [], 0),
        ("E11.9,,\n ;I10;", ["E11.9", "I10"], 0),
        ("- E11.9\r\n- e11\r\n- J189.", ["E11.9", "E11", "J18.9"], 0),
        ("E11.9. and (I10)", ["E11.9", "I10"], 0),
        ("E11.99, E119.", ["E11.9"], 1),
        ("Z99.1 X00 I10", ["I10"], 2),
        ("<think>E11.9, no</think>I10<think>J18.9, perhaps", ["I10"], 1),
        ("<think>E11.9, E11", [], 1),
        ("straße, I10", ["I10"], 1),
        ("Code:I10\n1.E11.9:diabetes\n2. icd10cm:J18.9", ["I10", "E11.9", "J18.9"], 0),
        ("E11_9, 12.34", [], 2),
    ],
)
def test_free_answers_are_understood(text: str, codes: list[str], dropped: int) -> None:
    answer = parse_answer(text, PARSED)
    assert [PARSED.codes[mention.index].text for mention in answer.mentions] == codes
    assert answer.dropped == dropped


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    answer = parse_answer(text, PARSED)
    assert answer.dropped >= 0
    assert len({mention.index for mention in answer.mentions}) == len(answer.mentions)
    assert all(0 <= mention.start < mention.end <= len(text) for mention in answer.mentions)


@settings(max_examples=50)
@given(
    codes=st.lists(st.sampled_from(PARSED.codes), unique=True),
    spell=st.sampled_from([str, str.lower, lambda text: text + "."]),
    separator=st.sampled_from([", ", ",", "\n", ";", ",\n- "]),
    foreign=st.lists(st.from_regex(r"[QX]\d\d\.[A-Z]{4}", fullmatch=True)),
    data=st.data(),
)
def test_every_code_is_found_and_every_other_one_counted(codes, spell, separator, foreign, data) -> None:
    parts = data.draw(st.permutations([code.text for code in codes] + foreign))
    answer = parse_answer(separator.join(map(spell, parts)), PARSED)
    assert [PARSED.codes[mention.index].text for mention in answer.mentions] == [
        part for part in parts if part not in foreign
    ]
    assert answer.dropped == len(foreign)


@pytest.mark.parametrize(
    ("text", "codes", "dropped"),
    [
        (" I10, E11", ["I10"], 1),
        (" I10,", ["I10"], 1),
        (" E11", [], 1),
        ("I10\nJ18.9; E1", ["I10", "J18.9"], 1),
        ("</think>I10, E11", ["I10"], 1),
        ("I10, J18.9</think>E11", [], 1),
        ("", [], 1),
    ],
)
def test_an_answer_that_was_broken_off_loses_its_last_code(text: str, codes: list[str], dropped: int) -> None:
    answer = parse_answer(text, PARSED, cut=True)
    assert [PARSED.codes[mention.index].text for mention in answer.mentions] == codes
    assert answer.dropped == dropped


def test_a_code_is_as_probable_as_the_tokens_that_it_was_written_with() -> None:
    tokens = [(" E", None), ("11", math.log(0.5)), (".9", math.log(0.5)), (", ", -9.0), ("e", -9.0), ("11", -9.0)]
    tokens += [("\ni", math.log(0.5)), ("1", math.log(0.1)), ("0", math.log(0.1)), (".", -9.0)]
    mentions = parse_answer("".join(text for text, _ in tokens), PARSED).mentions
    assert [PARSED.codes[mention.index].text for mention in mentions] == ["E11.9", "E11", "I10"]
    probabilities = [mention_probability(mention, tokens) for mention in mentions]
    assert probabilities == pytest.approx([0.25, math.exp(-18), 0.005])
    assert mention_probability(mentions[0], [(text, None) for text, _ in tokens]) is None
