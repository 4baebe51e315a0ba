"""Whether a list says what the doctor said, held against lists whose labels are known."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medcode_assets.corpora.synthetic_conversations import synthetic_conversations
from medcode_assets.recipes.consult.converting.faithful import kept_share, new_share, read_rules, unfaithful
from medcode_assets.recipes.consult.converting.prose import outline_prose
from medcode_assets.recipes.consult.converting.replies import Refused, read_reply
from medcode_assets.recipes.consult.converting.requests import read_prompts
from medcode_assets.recipes.consult.outline import parse

CASES = yaml.safe_load(Path(__file__).with_name("labelled_lists.yaml").read_text(encoding="utf-8"))
HONEST = [(case, one) for case in CASES for one in case["honest"]]
WRONG = [(case, one, kind) for case in CASES for kind, lists in case.get("wrong", {}).items() for one in lists]
WARFARIN = "You should NOT take warfarin with ibuprofen. Have your INR checked this week."


def listed(answer: str, *details: str) -> str:
    return f"{answer}\n\n1. Rest\n" + "".join(f"   - {detail}\n" for detail in details)


@pytest.mark.parametrize(("case", "made"), HONEST)
def test_honest_lists_are_taken(case: dict[str, Any], made: dict[str, Any]) -> None:
    found = read_reply(json.dumps(made), case["doctor"], case["question"])
    assert isinstance(found, str), found


@pytest.mark.parametrize(("case", "made", "kind"), WRONG)
def test_lists_that_say_something_else_are_refused_with_the_reason(
    case: dict[str, Any], made: dict[str, Any], kind: str
) -> None:
    found = read_reply(json.dumps(made), case["doctor"], case["question"])
    assert isinstance(found, Refused)
    assert found.kinds == (kind,)
    assert found.problems == (read_prompts().unreadable[kind],)


def test_made_answers_by_cue_words_lose_and_add_nothing() -> None:
    for row in synthetic_conversations(120, 5):
        if row["Doctor"]:
            written = outline_prose(row["Doctor"])
            assert written is not None
            assert kept_share(written, row["Doctor"]) == 1
            assert unfaithful(parse(written), row["Doctor"], row["Patient"] or "") == []


def test_honest_lists_are_far_from_the_limits() -> None:
    rules = read_rules()
    for case, made in HONEST:
        text = read_reply(json.dumps(made), case["doctor"], case["question"])
        assert isinstance(text, str)
        assert kept_share(text, case["doctor"]) > rules.least_kept + 0.1


def test_shares_are_of_stems() -> None:
    # foot, rest, cool and ice; rest is resting, cool is cooling.
    assert kept_share("Resting and cooling", "Hello. Rest the foot. Cool it with ice. Take care.") == 2 / 4
    assert new_share("Rest the broken foot.", "Resting feet or a foot") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("doctor", "written", "kinds"),
    [
        (WARFARIN, "You should take warfarin with ibuprofen.", ["lost_negation"]),
        (WARFARIN, "Never take warfarin with ibuprofen.", []),
        (WARFARIN, "Ibuprofen is dangerous with warfarin.", []),
        ("Take ibuprofen with food.", "Do not take ibuprofen with food.", ["new_negation"]),
        ("Don’t take ibuprofen.", "Take ibuprofen.", ["lost_negation"]),
        # Two negations, and conditions, are no certain ones.
        ("Do not stop insulin.", "Continue insulin.", []),
        ("If the fever does not fall, rest.", "Rest if the fever lasts.", []),
        ("Don't forget the insulin.", "Take the insulin.", []),
        # Nor is one beside another drug: this exchange passes.
        ("Take ibuprofen, not aspirin.", "Take aspirin, not ibuprofen.", []),
    ],
)
def test_negations_of_drugs_and_terms(doctor: str, written: str, kinds: list[str]) -> None:
    found = unfaithful(parse(listed(written, "Have your INR checked this week.")), f"{doctor} Check the INR.", "")
    assert [kind for kind in found if kind.endswith("negation")] == kinds


def test_a_sentence_that_only_lost_its_no_is_told_without_any_term() -> None:
    doctor = "You can climb stairs. Never lift your bag above the shoulder. Sleep on the back."
    for told, kinds in (
        ("Lift your bag above the shoulder.", ["lost_negation"]),
        ("Never lift your bag above the shoulder. You cannot climb stairs.", ["new_negation"]),
        ("Never lift the bag above your shoulder. You can climb stairs.", []),
        ("Avoid lifting your bag above the shoulder.", []),
    ):
        found = unfaithful(parse(listed("Sleep on the back.", told)), doctor, "")
        assert [kind for kind in found if kind.endswith("negation")] == kinds, told


def test_a_heading_may_carry_the_negation() -> None:
    written = "Bleeding is likely otherwise.\n\n1. Avoid\n   - Warfarin with ibuprofen.\n2. INR\n   - Check this week."
    assert "lost_negation" not in unfaithful(parse(written), WARFARIN, "")


def test_the_patients_drugs_and_words_may_be_repeated() -> None:
    doctor = "Stop the blood thinner for two days before the tooth is pulled."
    written = parse(listed("Stop the blood thinner warfarin.", "For two days before the tooth is pulled."))
    assert unfaithful(written, doctor, "") == ["new_drugs"]
    assert unfaithful(written, doctor, "I take Warfarin.") == []


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_judged(doctor: str, written: str) -> None:
    assert set(unfaithful(parse(written), doctor, "")) <= set(read_prompts().unreadable)
