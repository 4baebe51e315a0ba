"""Answers with reasoning: how they are written and read, and the engine that writes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_serving.base_models import resolve_base_model
from medcode_serving.bundle import DecodingSettings
from medcode_serving.chat import chat_prompt
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.decoding import build_trie, parse_answer
from medcode_serving.engines.protocol import NoteOptions
from medcode_serving.engines.transformers import TransformersEngine, load_tokenizer
from medcode_serving.errors import MedcodeError
from medcode_serving.reasoned import SPECIAL_TOKENS, answer_text, code_line, is_code_line, read_answer, without_thought

CODES = [
    ("icd10cm", "E11.9", "Type 2 diabetes mellitus without complications"),
    ("icd10cm", "E11.65", "Type 2 diabetes mellitus with hyperglycemia"),
    ("hcpcs", "E0130", "Walker, rigid, adjustable or fixed height"),
    ("cpt", "99213", None),
]
NOTES = ["Type 2 diabetes, well controlled.", "Needs a walker at home."]


@pytest.fixture(scope="module")
def lines() -> Vocabulary:
    return Vocabulary(
        [VocabularyCode(system, code, code_line(system, code, title), title, 1) for system, code, title in CODES]
    )


def test_the_formats_of_the_issue() -> None:
    assert (
        code_line("icd10cm", "J20.9", "Acute bronchitis, unspecified") == "ICD10: J20.9 (Acute bronchitis, unspecified)"
    )
    text = answer_text(["unsteady gait", "fell twice"], code_line(*CODES[2]))
    assert text == (
        "<think>\n- unsteady gait\n- fell twice\n</think>\nHCPCS: E0130 (Walker, rigid, adjustable or fixed height)"
    )
    answer = read_answer(text)
    assert (answer.points, answer.system, answer.code) == (("unsteady gait", "fell twice"), "hcpcs", "E0130")
    assert answer.description == "Walker, rigid, adjustable or fixed height"
    assert answer.well_formed
    assert answer.reasoning == "- unsteady gait\n- fell twice"


points = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1).map(str.strip).filter(bool),
    max_size=4,
)


@given(points=points, which=st.sampled_from(CODES))
def test_what_is_written_is_read(points: list[str], which: tuple[str, str, str | None]) -> None:
    answer = read_answer(answer_text(points, code_line(*which)))
    assert (list(answer.points), answer.system, answer.code, answer.description) == (points, *which)
    assert answer.well_formed


@pytest.mark.parametrize(
    ("text", "code", "count"),
    [
        ("<think>hm</think> ICD10: e11.9", "E11.9", 1),
        ("The code is ICD10: E11.9, I think", "E11.9", 0),
        ("<think>\n- a b\nICD10: E11.9", None, 0),
        ("E11.9", None, 0),
        ("ICD10: SMITH", "SMITH", 0),
        ("ICD10: ABC (Type 2)", "ABC", 0),
        ("", None, 0),
        ("ICD10: E11.9 (Type 2)\nICD10: I10 (x)", "E11.9", 0),
        ("<think>\n</think>\nCPT: 99213", "99213", 0),
    ],
)
def test_what_is_out_of_the_format_is_read_as_far_as_it_goes(text: str, code: str | None, count: int) -> None:
    answer = read_answer(text)
    assert (answer.code, len(answer.points), answer.well_formed) == (code, count, False)


def test_free_answers_name_one_code_of_the_vocabulary(lines: Vocabulary) -> None:
    text = "<think>\n- sugar\n</think>\nICD10: E1165 (whatever)"
    found = parse_answer(text, lines)
    assert [lines.codes[mention.index].code for mention in found.mentions] == ["E11.65"]
    assert text[found.mentions[0].start : found.mentions[0].end] == "E1165"
    assert found.reasoning == "- sugar"
    for before, behind in (("- große E11.9\n", " (E11.9 again)"), ("- x\n", "")):
        text = f"<think>\n{before}</think>\nICD10: e11.9{behind}"
        (mention,) = parse_answer(text, lines).mentions
        assert (mention.start, text[mention.start : mention.end]) == (text.index("e11.9"), "e11.9")
    for wrong in ("HCPCS: E11.9 (x)", "ICD10: I10 (x)", "no idea", "<think>\n- sugar"):
        assert (parse_answer(wrong, lines).mentions, parse_answer(wrong, lines).dropped) == ((), 1)
    assert parse_answer("ICD10: E11.9", lines, cut=True).mentions == ()


@pytest.fixture(scope="module")
def base(base_model: Path, tmp_path_factory: pytest.TempPathFactory):
    return resolve_base_model(str(base_model), tmp_path_factory.mktemp("cache"), added_tokens=SPECIAL_TOKENS)


def make_engine(base, lines: Vocabulary, **limits) -> TransformersEngine:
    prompt = chat_prompt(base.path, "Give your reasoning, then the code.", "reasoned")
    decoding = DecodingSettings(**{"max_prompt_tokens": 160, "max_codes": 1, "max_reasoning_tokens": 12} | limits)
    return TransformersEngine("reasoning", base.path, None, lines, prompt, decoding, batch_size=2)


def test_a_trie_of_lines_writes_one_whole_line(base, lines: Vocabulary) -> None:
    tokenizer = load_tokenizer(base.path)
    trie = build_trie(tokenizer, [code.text for code in lines.codes])
    assert trie.separator == -1
    assert all(is_code_line(code.text) for code in lines.codes)
    assert trie.size[0] == len(CODES)
    first = set(trie.edge_tokens[trie.first_edge[0] : trie.first_edge[1], 0].tolist())
    assert first == set(tokenizer.convert_tokens_to_ids(["ICD10:", "CPT:", "HCPCS:"]))


def test_every_answer_has_one_code_and_its_reasoning_apart(base, lines: Vocabulary) -> None:
    engine = make_engine(base, lines)
    predictions = engine.predict(NOTES)
    for prediction in predictions:
        (code,) = prediction.codes
        assert (code.system, code.code, code.description) in CODES
        assert 0 <= code.probability <= 1
        assert prediction.reasoning is None or "</think>" not in prediction.reasoning
    assert any(prediction.reasoning for prediction in predictions)
    # Alone or together, with more codes asked for or not.
    assert [engine.predict([note])[0].codes[0].code for note in NOTES] == [found.codes[0].code for found in predictions]
    many = engine.predict(NOTES, options=[NoteOptions(max_codes=5)] * 2)
    assert [len(found.codes) for found in many] == [1, 1]


def test_the_code_is_the_likeliest_line_behind_the_reasoning(base, lines: Vocabulary) -> None:
    """Worked out with the plain model: the probability of each line, renormalised where paths part."""
    import torch
    from transformers import AutoModelForCausalLM

    from medcode_serving.prompts import encode_completions, encode_prompts

    engine = make_engine(base, lines)
    (found,) = engine.predict(NOTES[:1])
    tokenizer = load_tokenizer(base.path)
    prompt = chat_prompt(base.path, "Give your reasoning, then the code.", "reasoned")
    ids = encode_prompts(tokenizer, prompt, NOTES[:1], 160)[0].input_ids
    thought = f"<think>\n{found.reasoning}\n</think>\n" if found.reasoning else "<think>\n</think>\n"
    ids = ids + encode_completions(tokenizer, [thought])[0][:-1]
    model = AutoModelForCausalLM.from_pretrained(base.path)
    paths = [line[:-1] for line in encode_completions(tokenizer, [code.text for code in lines.codes])]

    def log_probability(path: list[int]) -> float:
        with torch.inference_mode():
            logits = model(torch.tensor([ids + path])).logits[0, len(ids) - 1 :].double()
        total = 0.0
        for place, token in enumerate(path):
            allowed = sorted({other[place] for other in paths if other[:place] == path[:place] and len(other) > place})
            total += float(logits[place, token] - torch.logsumexp(logits[place, allowed], 0))
        return total

    values = np.exp([log_probability(path) for path in paths])
    assert values.sum() == pytest.approx(1)
    index = next(place for place, code in enumerate(lines.codes) if code.code == found.codes[0].code)
    assert found.codes[0].probability == pytest.approx(values[index], rel=1e-4)


def test_reasoning_is_shortened_where_the_model_has_no_room(base, lines: Vocabulary) -> None:
    positions = json.loads((base.path / "config.json").read_text())["max_position_embeddings"]
    line = build_trie(load_tokenizer(base.path), [code.text for code in lines.codes]).longest + 1
    frame = 5  # <think>, line break, the one that ends the reasoning, </think>, line break
    full = positions - line - frame - 3
    engine = make_engine(base, lines, max_prompt_tokens=full, max_reasoning_tokens=positions)
    (found,) = engine.predict(["fever " * positions])
    assert found.truncated
    assert len(found.codes) == 1
    with pytest.raises(MedcodeError, match=rf"one with a code needs {line + frame + 1}; lower it"):
        make_engine(base, lines, max_prompt_tokens=full + 3)


def test_written_freely_the_text_is_parsed(base, lines: Vocabulary) -> None:
    engine = make_engine(base, lines)
    (found,) = engine.predict(NOTES[:1], options=[NoteOptions(constrained=False)])
    assert (found.codes, found.dropped) == ((), 1)  # a random model writes no format
    texts = engine.write(NOTES, 20)
    assert len(texts) == 2
    assert texts == [engine.write([note], 20)[0] for note in NOTES]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<think>\nIt may be flu.\n</think>\n\nRest.", "Rest."),
        ("It may be flu.\n</think>\n\nRest.\n- Drink.", "Rest.\n- Drink."),  # the template opened the thought
        ("<think>\nIt may be", ""),  # the limit cut it off
        ("<think>a</think>Rest.<think>Or", "Rest."),
        ("  Rest, I think. ", "  Rest, I think. "),
        ("", ""),
    ],
)
def test_what_a_model_thinks_is_no_answer(written: str, said: str) -> None:
    assert without_thought(written) == said
