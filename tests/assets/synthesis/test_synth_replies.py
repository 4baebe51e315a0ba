import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.reasoning.formats import Stage1Line, Stage2Line, Stage3Line, written
from medcode_assets.recipes.reasoning.rules import Limits, rules
from medcode_assets.synthesis.replies import REJECTIONS, Standard, line_of, read_object
from medcode_assets.synthesis.requests import Inquiry, ListedCode, Request
from medcode_serving.codes.tables import code_tables

NARRATIVE = "Woman in the fifties with home readings of 160 over 95 for three weeks and no chest pain."
POINTS = ["home readings of 160 over 95", "no chest pain"]
GOOD = {"narrative": NARRATIVE, "reasoning": POINTS, "code": "I10"}
I10 = ListedCode("icd10cm", "I10", "Essential (primary) hypertension")


def standard(stage: int) -> Standard:
    return Standard(stage, Limits(), code_tables())


def asked(stage: int, code: ListedCode = I10) -> Request:
    return Inquiry(stage, 0, (code,)).request(0, 0)


def given_narrative(stage: int, narrative: str = NARRATIVE) -> Request:
    return Inquiry(stage, 0, (), (narrative,)).request(0, 0)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"```json\n{json.dumps(GOOD, indent=2)}\n```",
        f"Sure! {{see below}}\n```\n{json.dumps(GOOD)}\n``` I hope {{this}} helps.",
        '<think>Maybe {"narrative": "x", "code": "E11.9", "reasoning": [], "more": 1}?</think>' + json.dumps(GOOD),
        json.dumps(GOOD).replace("three weeks", "three\nweeks"),
        json.dumps([GOOD]),
    ],
)
def test_the_object_is_found_whatever_stands_around_it(text: str) -> None:
    line = line_of(text, asked(2), standard(2))
    assert isinstance(line, Stage2Line)
    assert line.completion == (
        "<think>\n- home readings of 160 over 95\n- no chest pain\n</think>\n"
        "ICD10: I10 (Essential (primary) hypertension)"
    )
    assert " ".join(line.narrative.split()) == NARRATIVE


@given(before=st.text(alphabet='ab{ }["\n`', max_size=20), after=st.text(max_size=20))
def test_no_text_around_it_breaks_the_reading(before: str, after: str) -> None:
    found = read_object(f"{before}\n{json.dumps({'a': 1, 'b': 2})}\n{after}")
    assert found is None or isinstance(found, dict)
    if not set(before) & set('{"['):
        assert found is not None


@given(st.text())
def test_anything_may_be_answered(text: str) -> None:
    found = read_object(text)
    assert found is None or isinstance(found, dict)


def test_stages_one_and_three() -> None:
    line = line_of(json.dumps({"narrative": NARRATIVE, "code": "ICD10: I10 (Essential)"}), asked(1), standard(1))
    assert isinstance(line, Stage1Line)
    assert line.completion == "ICD10: I10 (Essential (primary) hypertension)"
    reply = GOOD | {"rejected_reasoning": "- high pressure\n2. vague", "rejected_code": "I11.9"}
    line = line_of(json.dumps(reply), asked(3), standard(3))
    assert isinstance(line, Stage3Line)
    assert line.rejected.startswith("<think>\n- high pressure\n- vague\n</think>\nICD10: I11.9 (Hypertensive heart")
    assert json.loads(written(line))["_metadata"]["source"] == "synthetic"


def test_cpt_has_no_description_in_the_answer() -> None:
    code = ListedCode("cpt", "99213", "an office visit of twenty minutes")
    line = line_of(json.dumps(GOOD | {"code": "CPT: 99213"}), asked(2, code), standard(2))
    assert isinstance(line, Stage2Line)
    assert line.completion.endswith("\nCPT: 99213")


def test_a_given_narrative_stays_and_its_code_is_the_models() -> None:
    reply = {"reasoning": POINTS, "code_type": "ICD-10-CM", "code": "i10", "narrative": "another"}
    line = line_of(json.dumps(reply), given_narrative(2), standard(2))
    assert isinstance(line, Stage2Line)
    assert line.narrative == NARRATIVE
    assert line.metadata.code == "I10"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"narrative": None}, "fields_missing"),
        ({"narrative": ["x"]}, "fields_missing"),
        ({"reasoning": []}, "fields_missing"),
        ({"reasoning": [1]}, "fields_missing"),
        ({"code": 10}, "fields_missing"),
        ({"code": "E11.9"}, "other_code"),
        ({"reasoning": ["elephants fly over mountains"]}, "reasoning_unsupported"),
        ({"reasoning": ["home readings of 160 over 95 " * 30]}, "reasoning_too_long"),
        ({"narrative": "Too short."}, "narrative_too_short"),
        ({"narrative": NARRATIVE + " I10"}, "code_in_narrative"),
        ({"narrative": NARRATIVE + " <think>"}, "marker_in_narrative"),
    ],
)
def test_what_is_wrong_is_named(change: dict, kind: str) -> None:
    problems = line_of(json.dumps(GOOD | change), asked(2), standard(2))
    assert isinstance(problems, list)
    assert kind in problems
    assert set(problems) <= {*REJECTIONS, *rules()}


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ({"code_type": "ICD10", "code": "E11"}, "code_invalid"),
        ({"code_type": "ICD10", "code": "pressure"}, "no_code"),
        ({"code_type": "SNOMED", "code": "E11.9"}, "fields_missing"),
        ({"code": "E11.9"}, "fields_missing"),
    ],
)
def test_codes_that_a_model_finds_are_checked(reply: dict, kind: str) -> None:
    problems = line_of(json.dumps(reply), given_narrative(1), standard(1))
    assert isinstance(problems, list)
    assert kind in problems


def test_a_preference_needs_a_difference() -> None:
    reply = GOOD | {"rejected_reasoning": POINTS, "rejected_code": "I10"}
    assert line_of(json.dumps(reply), asked(3), standard(3)) == ["chosen_equals_rejected"]
    assert line_of(json.dumps(reply | {"rejected_code": "high"}), asked(3), standard(3)) == ["no_code"]


def test_no_object_at_all() -> None:
    assert line_of("I cannot.", asked(1), standard(1)) == ["no_json"]
    assert line_of(json.dumps(GOOD)[:40], asked(1), standard(1)) == ["no_json"]
