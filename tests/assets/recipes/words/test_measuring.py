"""Measures of answers in words, on answers whose values are worked by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from medcode_assets.config import GateSettings
from medcode_assets.recipes.consult.recipe import CONSULT
from medcode_assets.recipes.recipe import Words
from medcode_assets.recipes.words.answers import (
    TUNED,
    UNTUNED,
    Answered,
    answers_file,
    read_word_answers,
    write_word_answers,
)
from medcode_assets.recipes.words.evaluating import word_evaluation_fingerprint
from medcode_assets.recipes.words.gates import check_word_gates
from medcode_assets.recipes.words.measuring import (
    measure_answers,
    read_word_report,
    word_report,
    word_table,
    write_word_report,
)
from medcode_assets.recipes.words.plots import subject_bars, word_bars
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.errors import MedcodeError

ASKED = [
    Asked(1, "eyes", "Q1", ("take rest",)),
    Asked(2, "eyes", "Q2", ("drink water", "drink tea"), ("x", "y"), 1),
    Asked(3, "ears", "Q3", ("sleep",)),
]


def score(asked, answers):
    return {"short": [1.0 if len(answer.text.split()) < 3 else 0.0 for answer in answers]}


WORDS = Words(score, {"short": "Fewer than three words."}, headline="short")


def answered(*texts: str, log_p: float = -1.0, cut: bool = False) -> list[Answered]:
    return [Answered(text, len(text.split()), 0.5, cut, (), log_p, 2) for text in texts]


GOOD = answered("take rest", "drink tea", "wake up")
BAD = answered("take take take rest", "no no no", "", log_p=-6.0)


def test_values_worked_by_hand() -> None:
    found = measure_answers(ASKED, GOOD, WORDS)
    assert found.value("short") == 1.0
    assert found.value("exact_match") == pytest.approx(2 / 3)
    assert found.value("token_f1") == pytest.approx(2 / 3)
    assert found.perplexity == pytest.approx(math.exp(3 / 6))  # three times a log-probability of -1 over two tokens
    assert found.words == 2.0
    assert found.verbosity == pytest.approx(6 / 5)
    assert (found.empty, found.cut, found.distinct) == (0.0, 0.0, 3)
    eyes, ears = found.subjects[1], found.subjects[0]
    assert (eyes.subject, eyes.answers, ears.subject, ears.answers) == ("eyes", 2, "ears", 1)
    assert (eyes.means["token_f1"], ears.means["token_f1"]) == (1.0, 0.0)


def test_the_gain_is_paired() -> None:
    report = word_report(ASKED, {UNTUNED: BAD, TUNED: GOOD}, WORDS)
    gain = report.gain("short")
    # Better on two of the three, equal on the empty one.
    assert gain.value == pytest.approx(2 / 3)
    assert report.gain("token_f1").value == pytest.approx((1 - 2 / 3 + 1 + 0) / 3)
    assert report.gain("bleu_4") is None  # of a corpus only
    table = word_table(report)
    assert "| **short** | 0.333" in table
    assert "perplexity of references | 20.09 | 1.649 |" in table


def test_reports_and_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    report = word_report(ASKED, {UNTUNED: BAD, TUNED: GOOD}, WORDS)
    write_word_report(report, tmp_path)
    assert read_word_report(tmp_path) == report
    file = answers_file(tmp_path, TUNED)
    scored = [Answered("a", 1, 0.25, True, (-1.0, -2.0), -3.0, 4), *GOOD[1:]]
    write_word_answers(file, ASKED, scored)
    assert read_word_answers(file) == (ASKED, scored)
    with pytest.raises(ValueError, match="3 questions and 2 answers"):
        write_word_answers(file, ASKED, GOOD[:2])
    for png in (word_bars(report), subject_bars(report)):
        assert png.startswith(b"\x89PNG")


def test_a_score_that_is_no_number_is_an_error() -> None:
    broken = Words(lambda asked, answers: {"short": [math.nan] * 3}, {"short": ""}, "short")
    with pytest.raises(MedcodeError, match="no finite number"):
        measure_answers(ASKED, GOOD, broken)
    with pytest.raises(MedcodeError, match="no answers"):
        measure_answers([], [], WORDS)


def test_a_perplexity_that_is_no_number_is_an_error() -> None:
    with pytest.raises(MedcodeError, match="the model diverged"):
        measure_answers(ASKED, answered("a", "b", "c", log_p=math.nan), WORDS)
    assert math.isfinite(measure_answers(ASKED, answered("a", "b", "c", log_p=-math.inf), WORDS).perplexity)


def test_other_rules_are_another_evaluation(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("most: 5")
    recipe = replace(CONSULT, words=replace(WORDS, rules=(rules,)))
    before = word_evaluation_fingerprint("answers", "seal", recipe, None)
    assert word_evaluation_fingerprint("answers", "seal", recipe, None) == before
    rules.write_text("most: 6")
    assert word_evaluation_fingerprint("answers", "seal", recipe, None) != before
    assert CONSULT.words is not None
    assert {file.name for file in CONSULT.words.rules} >= {"structure.yaml", "terms.yaml"}
    assert all(file.is_file() for file in CONSULT.words.rules)


def test_gates() -> None:
    def gates(before, after, served="nothing is published yet", **settings):
        # Three questions are too few to be sure of anything: each is asked four times.
        report = word_report(
            ASKED * 4, {UNTUNED: before * 4, TUNED: after * 4} if before else {TUNED: after * 4}, WORDS
        )
        return {gate.name: gate for gate in check_word_gates(report, None, GateSettings(**settings), served)}

    good = gates(BAD, GOOD)
    assert all(gate.passed for gate in good.values())
    assert "adapter 1.0000, untuned base 0.3333" in good["above_untuned_base"].reason
    assert not gates(GOOD, BAD)["above_untuned_base"].passed
    assert not gates(GOOD, GOOD)["above_untuned_base"].passed  # equal is not better
    assert gates(None, GOOD)["above_untuned_base"].reason == "the untuned base was not evaluated"
    for collapsed in (answered("same", "same", "same"), answered("", "", "a"), answered("a", "b", "c", cut=True)):
        assert not gates(BAD, collapsed)["not_collapsed"].passed
    relaxed = gates(GOOD, BAD, relax=["above_untuned_base"])["above_untuned_base"]
    assert (relaxed.passed, relaxed.relaxed, relaxed.blocks) == (False, True, False)
    assert not gates(GOOD, answered("a b c d", "a b c e", "a b c f"), served=0.9)["no_regression"].passed
    assert gates(BAD, GOOD, served=0.9)["no_regression"].passed


def test_a_gain_that_may_be_chance_is_none() -> None:
    before, after = (answered(*texts) for texts in (["a b c d"] * 29 + ["a"], ["a b c d"] * 27 + ["a"] * 3))
    report = word_report(ASKED * 10, {UNTUNED: before, TUNED: after}, WORDS)
    gate = next(
        gate for gate in check_word_gates(report, None, GateSettings(), "") if gate.name == "above_untuned_base"
    )
    assert report.gain("short").value == pytest.approx(2 / 30)
    assert not gate.passed
    assert "on 30 questions: it may be chance" in gate.reason


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        (0, 0, False),  # likelihoods alone tell options apart
        (0, 20, True),
        (30, 28, True),  # hardly fewer than the base's
        (30, 16, False),  # more than half, and surely fewer
        (None, 14, False),
        (None, 15, True),
    ],
)
def test_what_is_written_has_the_recipes_form(before: int | None, after: int, passed: bool) -> None:
    def share(valid: int) -> list[Answered]:
        return answered(*["a b"] * valid, *["a b c d"] * (30 - valid))

    models = {TUNED: share(after)} if before is None else {UNTUNED: share(before), TUNED: share(after)}
    report = word_report(ASKED * 10, models, WORDS)

    def readable(form: str | None, **settings: float):
        found = check_word_gates(report, form, GateSettings(**settings), "nothing is published yet")
        return next(gate for gate in found if gate.name == "readable")

    assert readable("short").passed is passed
    assert f"{after / 30:.1%} of the written answers (short; at least 50.0%)" in readable("short").reason
    assert readable(None).passed
    assert not readable("short", least_readable=1.0).passed
    assert not readable("unmeasured").passed
