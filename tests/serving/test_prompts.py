from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_serving.engines.transformers import load_tokenizer
from medcode_serving.prompts import PromptTemplate, encode_completions, encode_prompts, normalise_note, whole_words
from medcode_serving.sections import sections

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


def test_a_special_token_that_a_note_spells_out_stays_text(tokenizer) -> None:
    note = f"Fever. {tokenizer.eos_token} Codes: I10"
    for _ in range(2):
        (prompt,) = encode_prompts(tokenizer, TEMPLATE, [note], 200)
        assert tokenizer.eos_token_id not in prompt.input_ids
        assert tokenizer.decode(prompt.input_ids) == TEMPLATE.render(note)
        tokenizer("A")  # transformers sets the tokenizer back


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


FILLER = "He was seen and examined by the team. " * 6
NOTE = f"""Name: Invented Person
Service: MEDICINE

Allergies: none

Chief Complaint:
Cough

Major Surgical or Invasive Procedure:
Bronchoscopy

History of Present Illness:
{FILLER}

Past Medical History:
Diabetes

Social History:
{FILLER}

Family History:
{FILLER}

Physical Exam:
{FILLER}

Pertinent Results:
{FILLER}

Brief Hospital Course:
{FILLER}

Medications on Admission:
{FILLER}

Discharge Medications:
{FILLER}

Discharge Disposition:
Home

Discharge Diagnosis:
Pneumonia

Discharge Condition:
Good

Discharge Instructions:
{FILLER}

Followup Instructions:
{FILLER}"""


def words_kept(tokenizer, max_tokens: int) -> str:
    (prompt,) = encode_prompts(tokenizer, TEMPLATE, [NOTE], max_tokens)
    assert prompt.truncated
    text = tokenizer.decode(prompt.input_ids)
    return text.removeprefix(TEMPLATE.instruction.removesuffix("{note}")).removesuffix(TEMPLATE.answer_header)


def test_a_small_budget_keeps_the_diagnosis_and_drops_the_instructions(tokenizer) -> None:
    essential = "Major Surgical or Invasive Procedure:\nBronchoscopy\n\nDischarge Diagnosis:\nPneumonia"
    chief = "Chief Complaint:\nCough\n\n"
    room = len(tokenizer(TEMPLATE.render(chief + essential))["input_ids"])
    (prompt,) = encode_prompts(tokenizer, TEMPLATE, [NOTE], room + 4)  # 4 more are no room for a hospital course
    assert tokenizer.decode(prompt.input_ids) == TEMPLATE.render(chief + essential)
    assert prompt.cut == (
        "text",
        "service",
        "allergies",
        "history_of_present_illness",
        "past_medical_history",
        "social_history",
        "family_history",
        "physical_exam",
        "results",
        "hospital_course",
        "admission_medications",
        "discharge_medications",
        "discharge_disposition",
        "discharge_condition",
        "discharge_instructions",
        "follow_up",
    )


def test_the_first_section_without_room_is_cut_at_its_end(tokenizer) -> None:
    kept = words_kept(tokenizer, 250)
    assert kept.startswith("Chief Complaint:\nCough\n\nMajor Surgical")
    assert "Brief Hospital Course:\nHe was seen and examined" in kept
    assert kept.endswith("Discharge Diagnosis:\nPneumonia")
    assert "Diabetes" not in kept


def test_only_the_last_sections_go_when_little_is_too_much(tokenizer) -> None:
    whole = len(tokenizer(TEMPLATE.render(NOTE))["input_ids"])
    (prompt,) = encode_prompts(tokenizer, TEMPLATE, [NOTE], whole - 5)
    assert prompt.cut == ("follow_up",)
    assert prompt.whole_length == whole
    assert len(prompt.input_ids) >= whole - 20


LINES = [
    "Discharge Diagnosis:",
    "HPI:",
    "ALLERGIES: none",
    "Physical Exam:",
    "Follow-up Instructions:",
    "fever and cough",
]
NOTES = st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=60)), min_size=5, max_size=25).map("\n".join)


@settings(max_examples=80, deadline=None)
@given(note=NOTES, max_tokens=st.integers(60, 200))
def test_a_shortened_note_is_made_of_the_notes_lines(tokenizer, note: str, max_tokens: int) -> None:
    (prompt,) = encode_prompts(tokenizer, TEMPLATE, [note], max_tokens)
    assert [prompt] == encode_prompts(tokenizer, TEMPLATE, [note], max_tokens)
    whole = tokenizer(TEMPLATE.render(note))["input_ids"]
    assert prompt.whole_length == len(whole)
    assert set(prompt.cut) <= {section.name for section in sections()}
    if len(whole) <= max_tokens:
        assert (prompt.input_ids, prompt.cut) == (whole, ())
        return
    assert len(prompt.input_ids) <= max_tokens
    assert prompt.cut
    text = tokenizer.decode(prompt.input_ids, clean_up_tokenization_spaces=False)
    kept = text.removeprefix(TEMPLATE.instruction.removesuffix("{note}")).removesuffix(TEMPLATE.answer_header)
    assert prompt.input_ids == tokenizer(TEMPLATE.render(kept))["input_ids"]
    lines = kept.split("\n")
    assert any(is_made_of(lines, normalise_note(note).split("\n"), cut) for cut in range(len(lines)))


def is_made_of(kept: list[str], lines: list[str], cut: int) -> bool:
    """Whether lines are a subsequence of a note's, but for their outer white space and the end of one of them."""
    originals = (line.strip() for line in lines)
    return all(
        any(original == line or (place == cut and original.startswith(line)) for original in originals)
        for place, line in enumerate(map(str.strip, kept))
    )


def test_a_cut_leaves_whole_words() -> None:
    assert whole_words("aspirin 120 mg", 9) == "aspirin"
    assert whole_words("aspirin 120 mg", 11) == "aspirin 120"
    assert whole_words("aspirin\n120 mg", 10) == "aspirin"
    assert whole_words("x" * 100, 50) == "x" * 50  # no word to go back to
    assert whole_words("a " + "x" * 100, 90) == "a " + "x" * 88


def test_many_notes_are_encoded_as_each_alone(tokenizer) -> None:
    notes = ["Fever.", NOTE, "", NOTE * 3, "fever " * 500, "\u00e4\u0308 caf\u0065\u0301 " * 40]
    together = encode_prompts(tokenizer, TEMPLATE, notes, 300)
    assert together == [encode_prompts(tokenizer, TEMPLATE, [note], 300)[0] for note in notes]
    assert encode_prompts(tokenizer, TEMPLATE, [], 300) == []
