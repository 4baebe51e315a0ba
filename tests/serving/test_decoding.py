import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.decoding import CodeTrie, DecodedCode, GreedyAnswers, build_trie, parse_codes
from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.errors import MedcodeError

LETTERS = "EIJN"
RANDOM_CODES = st.builds(
    lambda letter, digits, rest: f"{letter}{digits}" + (f".{rest}" if rest else ""),
    st.sampled_from(LETTERS),
    st.sampled_from(["10", "11", "18"]),
    st.text("0169", max_size=2),
)


@pytest.fixture(scope="module")
def tokenizer(base_model: Path):
    return load_tokenizer(base_model)


def decode(trie: CodeTrie, logits_of, rows: int, *, max_codes, max_tokens: int) -> list[list[DecodedCode]]:
    """Run the decoder over a made-up model: `logits_of(row, tokens written so far)` gives a logit a token."""
    answers = GreedyAnswers(trie, rows, max_codes=max_codes, max_tokens=max_tokens)
    written: dict[int, list[int]] = {row: [] for row in range(rows)}
    alive = np.arange(rows)
    while len(alive):
        places, tokens = answers.choices()
        logits = np.array([logits_of(row, written[row]) for row in alive])
        going_on, new = answers.choose(logits[places, tokens], np.logaddexp.reduce(logits, axis=1))
        alive = alive[going_on]
        for row, block in zip(alive, new, strict=True):
            written[row] += [token for token in block.tolist() if token >= 0]
            assert len(written[row]) < max_tokens
    return answers.answers


def slow_reference(tokenizer, texts: list[str], logits_of, row: int, max_codes: int, max_tokens: int):
    """The definition, written down plainly: greedy over everything that some allowed answer goes on with."""
    paths = [tokenizer(" " + text, add_special_tokens=False)["input_ids"] for text in texts]
    comma, end = tokenizer(",", add_special_tokens=False)["input_ids"][0], tokenizer.eos_token_id
    longest = max(map(len, paths))
    written: list[int] = []
    used: list[int] = []
    answer: list[tuple[int, float, float]] = []
    confidence, support, prefix = 1.0, 1.0, []
    while True:
        unused = [index for index in range(len(texts)) if index not in used]
        going = {
            paths[i][len(prefix)] for i in unused if paths[i][: len(prefix)] == prefix and len(paths[i]) > len(prefix)
        }
        finished = [i for i in unused if paths[i] == prefix]
        closing = set()
        if finished:
            closing = {end}
            room = len(written) + 1 + longest + 1 <= max_tokens
            if len(used) + 1 < min(max_codes, len(texts)) and room:
                closing.add(comma)
        logits = logits_of(row, written)
        weights = {token: math.exp(logits[token]) for token in going | closing}
        total = sum(weights.values())
        token = max(weights, key=weights.__getitem__)
        if len(going | closing) > 1 or not DECIDED(going, closing, prefix, unused, paths):
            support *= total / np.exp(logits).sum()
        if token in closing:
            close = sum(weights[one] for one in closing)
            answer.append((finished[0], confidence * close / total))
            used.append(finished[0])
            if token == end:
                return answer
            confidence, prefix = weights[token] / close, []
        else:
            confidence *= weights[token] / total
            prefix = [*prefix, token]
        written.append(token)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(RANDOM_CODES, min_size=1, max_size=12, unique=True),
    seed=st.integers(0, 2**32 - 1),
    max_codes=st.integers(1, 5),
    budget=st.integers(0, 30),
)
def test_random_models_write_what_the_definition_says(tokenizer, texts, seed, max_codes, budget) -> None:
    trie = build_trie(tokenizer, texts)
    max_tokens = trie.longest + 1 + budget

    def logits_of(row: int, written: list[int]) -> np.ndarray:
        return np.random.default_rng([seed, row, *written]).normal(scale=3, size=len(tokenizer))

    answers = decode(trie, logits_of, 3, max_codes=max_codes, max_tokens=max_tokens)
    for row, answer in enumerate(answers):
        indices = [decoded.index for decoded in answer]
        assert 1 <= len(indices) <= max_codes
        assert len(set(indices)) == len(indices)
        assert all(0 <= decoded.confidence <= 1 for decoded in answer)
        expected = slow_reference(tokenizer, texts, logits_of, row, max_codes, max_tokens)
        assert indices == [index for index, _ in expected]
        assert [decoded.confidence for decoded in answer] == pytest.approx([value for _, value in expected])


def test_a_vocabulary_of_one_code_is_certain(tokenizer) -> None:
    trie = build_trie(tokenizer, ["I10"])
    answers = decode(trie, lambda row, written: np.zeros(len(tokenizer)), 2, max_codes=4, max_tokens=40)
    assert answers == [[DecodedCode(0, 1.0)]] * 2


def test_a_model_that_never_ends_is_stopped_between_codes(tokenizer) -> None:
    texts = [f"J{number}.9" for number in range(10, 40)]
    trie = build_trie(tokenizer, texts)
    logits = np.zeros(len(tokenizer))
    logits[trie.separator] = 50.0
    (answer,) = decode(trie, lambda row, written: logits, 1, max_codes=99, max_tokens=4 * (trie.longest + 1))
    assert len(answer) == 4


def test_logits_that_are_no_numbers_are_an_error(tokenizer) -> None:
    trie = build_trie(tokenizer, ["I10", "J18.9"])
    with pytest.raises(MedcodeError, match="finite"):
        decode(trie, lambda row, written: np.full(len(tokenizer), np.nan), 1, max_codes=4, max_tokens=40)


def test_a_tokenizer_that_joins_codes_is_refused() -> None:
    class Joining:
        eos_token_id = 0

        def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
            """One token a word, the comma stuck to the word before it."""
            return {"input_ids": [[abs(hash(word)) % 9999 + 1 for word in text.split()] for text in texts]}

    with pytest.raises(MedcodeError, match="byte-level"):
        build_trie(Joining(), ["I10", "J18.9"])  # type: ignore[arg-type]


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
    ],
)
def test_free_answers_are_understood(text: str, codes: list[str], dropped: int) -> None:
    indices, count = parse_codes(text, PARSED)
    assert [PARSED.codes[index].text for index in indices] == codes
    assert count == dropped


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    indices, dropped = parse_codes(text, PARSED)
    assert dropped >= 0
    assert len(set(indices)) == len(indices)
