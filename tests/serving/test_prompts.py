from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import PromptTemplate, encode_completions, encode_prompts

TEMPLATE = PromptTemplate()


@pytest.fixture(scope="module")
def tokenizer(base_model: Path):
    return load_tokenizer(base_model)


@settings(max_examples=50, deadline=None)
@given(note=st.text(max_size=300), max_tokens=st.integers(60, 120))
def test_a_prompt_fits_and_keeps_its_frame(tokenizer, note: str, max_tokens: int) -> None:
    (prompt,) = encode_prompts(tokenizer, TEMPLATE, [note], max_tokens)
    assert len(prompt.input_ids) <= max_tokens
    text = tokenizer.decode(prompt.input_ids)
    assert text.startswith("Predict the medical codes for the following text: ")
    assert text.endswith("\n\nCodes:")
    whole = tokenizer(TEMPLATE.render(note))["input_ids"]
    assert prompt.truncated == (len(whole) > max_tokens)


def test_no_room_for_a_note_is_an_error(tokenizer) -> None:
    with pytest.raises(ValueError, match="no room"):
        encode_prompts(tokenizer, TEMPLATE, ["fever " * 50], 20)


def test_prompt_and_completion_join_as_one_text(tokenizer) -> None:
    completion = TEMPLATE.completion(["E11.9", "I10"])
    assert completion == " E11.9, I10"
    (prompt,) = encode_prompts(tokenizer, TEMPLATE, ["Fever."], 100)
    joined = tokenizer(TEMPLATE.render("Fever.") + completion)["input_ids"]
    (answer,) = encode_completions(tokenizer, [completion])
    assert prompt.input_ids + answer == [*joined, tokenizer.eos_token_id]


def test_a_brace_in_a_note_stays() -> None:
    assert "{note} {}" in TEMPLATE.render("{note} {}")
