"""Answers are read, scored, calibrated, shortened and looked through for patterns: worked by hand."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.medqa.brevity import (
    BrevityRow,
    recommended,
    told_recommendation,
    try_controls,
    writings,
)
from medcode_assets.recipes.medqa.confidence import (
    SCORES,
    confidence_bins,
    fit_temperature,
    measure_confidence,
    option_probabilities,
    read_confidence,
    write_confidence,
)
from medcode_assets.recipes.medqa.errors import PAGE, find_errors, read_errors, write_errors
from medcode_assets.recipes.medqa.plots import brevity_points, confidence_curve, error_bars
from medcode_assets.recipes.medqa.reading import likeliest, option_texts, said
from medcode_assets.recipes.medqa.recipe import MEDQA
from medcode_assets.recipes.medqa.scoring import HEADLINE, MEASURES, score
from medcode_assets.recipes.medqa.settings import BrevitySection, ErrorsSection
from medcode_assets.recipes.words.answers import Answered
from medcode_assets.recipes.words.questions import Asked
from medcode_serving.engines.protocol import Writing
from medcode_serving.errors import MedcodeError

DRUGS = ("metformin", "warfarin", "aspirin", "insulin")
PNG = b"\x89PNG"


def asked(
    number: int = 0, correct: int = 1, *, stem: str = "Which drug?", template: str = "{label}. {option}"
) -> Asked:
    lines = "\n".join(f"{label}. {drug}" for label, drug in zip("ABCD", DRUGS, strict=True))
    options = tuple(template.format(label=label, option=drug) for label, drug in zip("ABCD", DRUGS, strict=True))
    return Asked(number, "Medicine", f"{stem}\n{lines}", (options[correct],), options, correct)


def answered(
    text: str, chances: Sequence[float] = (0.1, 0.7, 0.1, 0.1), *, cut: bool = False, sure: float = 0.5
) -> Answered:
    return Answered(text, len(text.split()), sure, cut, tuple(math.log(chance) for chance in chances))


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("B. warfarin", 1),
        ("b. Warfarin.", 1),
        ("B", 1),
        ("The answer is (C).", 2),
        ("warfarin", 1),
        ("Warfarin.\nIt is an anticoagulant.", 1),
        ("warfarin (B)", 1),
        ("B. warfarin\n\nExplanation: aspirin is not.", 1),
        ("B or C", None),
        ("warfarin and aspirin", None),
        ("", None),
        ("heparin", None),
    ],
)
def test_an_answer_chooses_what_it_says(text: str, choice: int | None) -> None:
    assert said(asked(), text) == choice


def test_answers_in_the_demos_template_are_read_too() -> None:
    one = asked(template="{option} ({label})")
    assert option_texts(one) == DRUGS
    assert [said(one, text) for text in (*one.options, "aspirin", "D", "iron (B)")] == [0, 1, 2, 3, 2, 3, 1]


def test_the_longer_of_two_options_that_begin_alike_is_meant() -> None:
    one = Asked(0, "", "Which?\nA. iron\nB. iron deficiency", ("iron",), ("iron", "iron deficiency"), 0)
    assert [said(one, text) for text in ("iron", "iron deficiency", "Iron deficiency is it")] == [0, 1, 1]


@given(st.sampled_from(["{label}. {option}", "{option} ({label})", "{label}", "({label}) {option}"]), st.integers(0, 3))
def test_every_completion_is_read_as_its_own_option(template: str, place: int) -> None:
    one = asked(template=template)
    assert said(one, one.options[place]) == place


def test_scores_worked_by_hand() -> None:
    questions = [asked(), asked(correct=2), asked(), asked(), Asked(5, "", "Why?", ("Because of iron.",))]
    answers = [
        answered("B. warfarin"),
        answered("B. warfarin"),  # likeliest is the second, right is the third
        answered("no idea", (0.4, 0.4, 0.1, 0.1)),  # a tie of two, one of them right
        Answered("A", 1, 0.5, False, (math.nan,) * 4),
        Answered("because of iron", 3, 0.5, False),
    ]
    found = score(questions, answers)
    assert set(found) == set(MEASURES)
    assert found["accuracy"] == [1.0, 0.0, 0.5, 0.0, 1.0]
    assert found["accuracy_generated"] == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert found["readable"] == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert HEADLINE in MEASURES
    assert MEDQA.words is not None
    assert np.isfinite([list(values) for values in found.values()]).all()


def test_length_is_divided_out() -> None:
    # -2 over 10 characters is less a character than -1.5 over 5.
    one = Asked(0, "", "Which?\nA. short\nB. much longer", ("A",), ("short", "muchlonger"), 1)
    found = score([one], [Answered("A", 1, 0.5, False, (-1.5, -2.0))])
    assert (found["accuracy"], found["accuracy_by_length"]) == ([0.0], [1.0])


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=5))
def test_the_likeliest_are_those_of_the_greatest_value(values: list[float]) -> None:
    assert {values[at] for at in likeliest(values)} == {max(values)}
    assert not likeliest([math.nan] * len(values))


def overconfident(count: int) -> tuple[list[Asked], list[Answered]]:
    """Answers that are right 3 times in 4, and always told with 0.97."""
    questions = [asked(n, correct=1 if n % 4 else 2) for n in range(count)]
    return questions, [answered("B. warfarin", (0.01, 0.97, 0.01, 0.01)) for _ in questions]


def test_a_temperature_makes_confidence_what_it_says(tmp_path: Path) -> None:
    test = overconfident(80)
    found = measure_confidence(overconfident(40), test)
    # Right is an option with p in 3 of 4 and with (1 - p) / 3 in 1 of 4: the likelihood is greatest at p = 3/4.
    # 0.97 / 0.01 to the power of 1 / T is 0.75 / (0.25 / 3) = 9.
    assert found.temperature == pytest.approx(math.log(97) / math.log(9), rel=1e-3)
    assert found.ece_before == pytest.approx(0.97 - 0.75)
    assert found.ece == pytest.approx(0.0, abs=1e-3)
    assert found.accuracy == 0.75
    assert found.auroc == 0.5  # all have the same
    assert not found.at_bound
    write_confidence(found, test, tmp_path)
    assert read_confidence(tmp_path) == found
    rows = list(csv.DictReader((tmp_path / SCORES).open()))
    assert (len(rows), rows[1]["option"], rows[1]["right"]) == (80, "B", "1")
    assert float(rows[1]["confidence"]) == pytest.approx(0.75, abs=1e-3)
    assert confidence_curve(found).startswith(PNG)


def test_a_temperature_where_the_search_ends_is_told() -> None:
    questions = [asked(n, correct=n % 4) for n in range(40)]  # right once in four: the likelihoods tell nothing
    answers = [answered("B. warfarin", (0.01, 0.97, 0.01, 0.01)) for _ in questions]
    found = measure_confidence((questions, answers), (questions, answers))
    assert found.temperature == pytest.approx(50.0, rel=0.01)
    assert found.at_bound


def test_sure_answers_that_are_right_give_a_full_area() -> None:
    questions = [asked(n, correct=1 if n < 6 else 3) for n in range(12)]
    answers = [answered("B", (0.05, 0.85, 0.05, 0.05) if n < 6 else (0.2, 0.4, 0.2, 0.2)) for n in range(12)]
    assert measure_confidence((questions, answers), (questions, answers)).auroc == 1.0
    with pytest.raises(MedcodeError, match="no validation question has options"):
        fit_temperature([Asked(0, "", "Why?", ("x",))], [answered("x")])
    with pytest.raises(MedcodeError, match="diverged"):
        option_probabilities(Answered("", 0, 0.0, False, (math.nan, 0.0)), 1.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_every_answer_is_in_one_bin(pairs: list[tuple[float, bool]]) -> None:
    told, right = (np.array(column) for column in zip(*pairs, strict=True))
    bins = confidence_bins(told, right)
    assert sum(one.answers for one in bins) == len(pairs)
    assert sum(one.answers * one.confidence for one in bins) == pytest.approx(told.sum())
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in bins)


def test_brevity_recommends_the_shortest_that_costs_nothing() -> None:
    section = BrevitySection(questions=4, length_penalties=[0.0, 1.0], max_sentences=[0], max_tokens=[0, 1])
    questions = [asked(n) for n in range(4)]
    written: list[Writing] = []

    def ask(plain: Sequence[Asked], writing: Writing) -> list[Answered]:
        written.append(writing)
        assert not any(one.options for one in plain)
        text = "B. warfarin, which is what I would choose here" if not written[1:] else "B. warfarin"
        return [Answered("I" if writing.max_tokens else text, 1, 0.5, bool(writing.max_tokens)) for _ in plain]

    found = try_controls(questions, section, ask)
    assert written == writings(section)
    assert written[0] == Writing()
    assert len(written) == 4
    best = found.rows[found.recommended]
    assert (best.label, best.words, best.accuracy_generated) == ("length_penalty 1", 2.0, 1.0)
    assert found.rows[0].verbosity == 4.5
    cut = [row for row in found.rows if row.max_tokens]
    assert {(row.cut, row.accuracy_generated, row.readable) for row in cut} == {(1.0, 0.0, 0.0)}
    assert brevity_points(found).startswith(PNG)


def test_no_control_is_recommended_where_none_shortens() -> None:
    free = BrevityRow(
        length_penalty=0.0, max_sentences=0, max_tokens=0, words=5.0, verbosity=1.0, accuracy_generated=0.8,
        readable=1.0, rouge_l=0.5, cut=0.0,
    )  # fmt: skip
    same = free.model_copy(update={"max_sentences": 1})
    worse = free.model_copy(update={"max_tokens": 2, "words": 1.0, "rouge_l": 0.1})
    assert recommended([free, same, worse], 0.01) == 0
    assert recommended([free, same, worse], 1.0) == 2


@pytest.mark.parametrize(("text", "said"), [("hm", "0% of the answers can be read"), ("A. metformin", "0% are right")])
def test_no_control_is_recommended_where_answers_are_worth_nothing(text: str, said: str) -> None:
    section = BrevitySection(questions=4, length_penalties=[0.0, 1.0], max_sentences=[0], max_tokens=[0])

    def ask(plain: Sequence[Asked], writing: Writing) -> list[Answered]:
        return [Answered(text if writing.length_penalty else f"{text} {text}", 1, 0.5, False) for _ in plain]

    found = try_controls([asked(n) for n in range(4)], section, ask)
    assert found.recommended is None
    assert told_recommendation(found).startswith("none: ")
    assert said in told_recommendation(found)
    assert brevity_points(found).startswith(PNG)


def test_open_answers_need_not_be_word_for_word() -> None:
    section = BrevitySection(questions=4, length_penalties=[0.0, 1.0], max_sentences=[0], max_tokens=[0])
    questions = [Asked(n, "", "Why?", ("Because of iron.",)) for n in range(4)]

    def ask(plain: Sequence[Asked], writing: Writing) -> list[Answered]:
        return [Answered("iron" if writing.length_penalty else "iron, iron", 1, 0.5, False) for _ in plain]

    found = try_controls(questions, section, ask)
    assert found.rows[0].accuracy_generated == 0.0
    assert told_recommendation(found).startswith("length_penalty 1 (1.0 words")


def test_patterns_of_wrong_answers_are_found(tmp_path: Path) -> None:
    negated = [asked(n, stem="Which of these is NOT a drug?") for n in range(20)]
    plain = [asked(n) for n in range(20, 60)]
    answers = [
        *(answered("A. metformin", (0.9, 0.04, 0.03, 0.03)) for _ in range(10)),  # sure, right is second
        *(answered("well, hm, I wonder", cut=True) for _ in range(6)),  # unreadable, though the likeliest is right
        *(answered("") for _ in range(4)),
        *(answered("B. warfarin") for _ in range(40)),
    ]
    found = find_errors([*negated, *plain], answers, 1.0, ErrorsSection(examples=3))
    patterns = {one.name: one for one in found.patterns}
    assert (found.answers, found.wrong) == (60, 20)
    trait = patterns["negated"]
    assert (trait.answers, trait.wrong, trait.error_rate, trait.lift) == (20, 20, 1.0, 3.0)
    assert trait.finding
    assert trait.chance == pytest.approx(1 / math.comb(60, 20))
    counts = {name: one.wrong for name, one in patterns.items() if one.fault}
    expected = {"confident": 10, "unsure": 10, "knows_better": 10, "unreadable": 6, "empty": 4, "too_long": 6, "cut": 6}
    # 4 words of 'well, hm, I wonder' are not more than twice the two of the reference.
    assert counts == {**expected, "too_long": 0}
    assert not patterns["empty"].finding
    assert len(patterns["confident"].examples) == 3
    subject = patterns["subject Medicine"]
    assert (subject.lift, subject.finding) == (1.0, False)
    assert [(one.label, one.right, one.chosen) for one in found.positions][:2] == [("A", 0, 10), ("B", 60, 40)]
    write_errors(found, tmp_path)
    assert read_errors(tmp_path) == found
    page = (tmp_path / PAGE).read_text()
    assert "asks for the exception" in page
    assert "warfarin" not in page
    assert error_bars(found).startswith(PNG)


def test_answers_that_prefer_a_place_are_told() -> None:
    questions = [asked(n, correct=n % 4) for n in range(80)]
    always_a = find_errors(questions, [answered("A", (0.7, 0.1, 0.1, 0.1)) for _ in questions], 1.0, ErrorsSection())
    assert always_a.prefers_positions
    even = [answered("ABCD"[(n % 4 + 1 + n // 4 % 3) % 4]) for n in range(80)]
    assert not find_errors(questions, even, 1.0, ErrorsSection()).prefers_positions


def test_no_wrong_answer_is_no_finding(tmp_path: Path) -> None:
    found = find_errors([asked()], [answered("B")], 1.0, ErrorsSection())
    assert found.wrong == 0
    write_errors(found, tmp_path)
    assert "Nothing stands out" in (tmp_path / PAGE).read_text()
    assert error_bars(found).startswith(PNG)
