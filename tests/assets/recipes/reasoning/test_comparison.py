import re
from html.parser import HTMLParser

import numpy as np
import pytest

from medcode_assets.recipes.reasoning.comparison import (
    STAGE_TITLES,
    GateLimits,
    StageResult,
    compare,
    comparison_table,
    read_comparison,
    read_stage,
    write_result,
)
from medcode_assets.recipes.reasoning.comparison_page import comparison_page, outcome
from medcode_assets.recipes.reasoning.comparison_plots import stage_bars
from medcode_assets.recipes.reasoning.measuring import Asked, measure_answers
from medcode_assets.recipes.reasoning.preferences import measure_preferences
from medcode_serving.errors import MedcodeError

NARRATIVES = 20
ASKED = [Asked(f"Cough and fever, day {day}; Zebediah.", "icd10cm", "J20.9", None) for day in range(NARRATIVES)]
RIGHT, WRONG = "ICD10: J20.9", "ICD10: J40"


def reasoned(line, count):
    return [f"<think>\n- cough and fever\n</think>\n{line}"] * count


def stage(name, texts, wins=None, *, asked=ASKED):
    return StageResult(
        name=name,
        answers=measure_answers(texts, asked, None, resamples=50),
        preferences=None if wins is None else preferences(wins),
    )


def preferences(wins, pairs=10):
    margins = np.array([1.0] * wins + [-1.0] * (pairs - wins))
    return measure_preferences(
        np.stack([np.full(pairs, -9.0), -9.0 - margins], axis=1), np.full((pairs, 2), 5), resamples=50
    )


def plain(right):
    return [RIGHT] * right + [WRONG] * (NARRATIVES - right)


def thought(right, without=0):
    return reasoned(RIGHT, right) + reasoned(WRONG, NARRATIVES - right - without) + [WRONG] * without


def stages(base=2, prior=4, first=15, second=15, third=15, without=1, before=5, after=8):
    """Return a whole comparison; numbers are right narratives, answers without reasoning, and pairs won."""
    return [
        stage("untuned_base", plain(base)),
        stage("frequency_prior", plain(prior)),
        stage("stage_1", plain(first)),
        stage("stage_2", thought(second, without), before),
        stage("stage_3", thought(third, without), after),
    ]


def gates(found):
    return {gate.name: gate.passed for gate in found.gates}


ALL = {
    "stage_1_above_untuned_base",
    "stage_1_above_frequency_prior",
    "stage_2_reasons",
    "stage_2_above_stage_1",
    "stage_2_keeps_accuracy",
    "stage_3_prefers",
    "stage_3_keeps_accuracy",
    "stage_3_keeps_reasoning",
}


def test_all_gates_pass():
    found = compare(stages(), resamples=50)
    assert gates(found) == dict.fromkeys(ALL, True)
    assert found.passed
    assert outcome(found).startswith("All 8 gates are passed")


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"base": 15}, {"stage_1_above_untuned_base"}),
        ({"base": 16}, {"stage_1_above_untuned_base"}),
        ({"prior": 15}, {"stage_1_above_frequency_prior"}),
        ({"without": 2}, {"stage_2_reasons"}),  # 0.9 is not above 0.9
        ({"second": 14}, set()),  # a twentieth, just what may go
        ({"second": 13, "third": 13}, {"stage_2_keeps_accuracy"}),
        ({"third": 13}, {"stage_3_keeps_accuracy"}),
        ({"after": 5}, {"stage_3_prefers"}),
        ({"after": 4}, {"stage_3_prefers"}),
    ],
)
def test_a_gate_that_is_not_passed(change, failed):
    found = compare(stages(**change), resamples=50)
    assert {name for name, passed in gates(found).items() if not passed} == failed
    assert found.passed == (not failed)
    assert all(name in outcome(found) for name in failed)


def test_stage_2_must_reason_more_than_stage_1():
    given = stages()
    given[2] = stage("stage_1", thought(15, 1))
    found = gates(compare(given, resamples=50))
    assert {name for name, passed in found.items() if not passed} == {"stage_2_above_stage_1"}


def test_stage_3_must_keep_reasoning():
    given = stages()
    given[4] = stage("stage_3", thought(15, 3), 8)
    found = gates(compare(given, resamples=50))
    assert {name for name, passed in found.items() if not passed} == {"stage_3_keeps_reasoning"}


def test_limits_move_the_gates():
    given = stages(second=13, third=13, without=3)
    limits = GateLimits(least_valid_reasoning=0.8, most_lost=0.1)
    assert not compare(given, resamples=50).passed
    assert compare(given, limits=limits, resamples=50).passed


def test_what_was_not_measured_passes_nothing():
    third = stages()[4]
    found = compare([third], resamples=50)
    assert gates(found) == {
        "stage_3_prefers": False,
        "stage_3_keeps_accuracy": False,
        "stage_3_keeps_reasoning": False,
    }
    assert all("measure" in gate.reason for gate in found.gates)
    first = compare([stage("stage_1", plain(15))], resamples=50)
    assert gates(first) == {"stage_1_above_untuned_base": False}
    baselines = compare(stages()[:2], resamples=50)
    assert baselines.gates == ()
    assert "Only baselines" in outcome(baselines)


def test_differences_are_paired():
    # The same five are wrong in both, and one more: the difference is of that one narrative alone.
    found = compare([stage("stage_1", plain(15)), stage("stage_2", thought(14))], resamples=200)
    change = found.difference("exact_accuracy", "stage_2", "stage_1")
    assert change.value == pytest.approx(-0.05)
    assert -0.2 < change.low < change.value < change.high <= 0.01
    assert found.difference("valid_reasoning_rate", "stage_2", "stage_1").value == 1
    assert found.difference("exact_accuracy", "stage_3", "stage_2") is None
    assert "-0.0500" in next(gate.reason for gate in found.gates if gate.name == "stage_2_keeps_accuracy")


def test_stages_come_in_their_order():
    found = compare(stages()[::-1], resamples=20)
    assert [one.name for one in found.stages] == ["untuned_base", "frequency_prior", "stage_1", "stage_2", "stage_3"]
    assert found.stages == tuple(stages())


def test_what_cannot_be_compared_is_said():
    with pytest.raises(MedcodeError, match="no stage was measured"):
        compare([])
    with pytest.raises(MedcodeError, match="stage_1 is there twice"):
        compare([stage("stage_1", plain(1))] * 2)
    with pytest.raises(MedcodeError, match=r"stage_2 \(20\) and stage_1 \(20\) were measured on other narratives"):
        compare([stage("stage_1", plain(1)), stage("stage_2", plain(1), asked=ASKED[::-1])])
    with pytest.raises(MedcodeError, match="other pairs"):
        compare(
            [
                stage("stage_2", plain(1), 5),
                stage("stage_3", plain(1)).model_copy(update={"preferences": preferences(5, 11)}),
            ]
        )
    with pytest.raises(ValueError, match="at least 1"):
        compare(stages(), resamples=0)


def test_files(tmp_path):
    found = compare(stages(), resamples=20)
    write_result(found, tmp_path / "new" / "comparison.json")
    write_result(found.stages[3], tmp_path / "stage.json")
    assert read_comparison(tmp_path / "new" / "comparison.json") == found
    assert read_stage(tmp_path / "stage.json") == found.stages[3]
    assert "Zebediah" not in (tmp_path / "new" / "comparison.json").read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new", "stage.json"]
    with pytest.raises(MedcodeError, match="nothing was measured there"):
        read_stage(tmp_path / "none.json")
    (tmp_path / "stage.json").write_text('{"name": "stage_9"}')
    with pytest.raises(MedcodeError, match="name, answers"):
        read_stage(tmp_path / "stage.json")
    (tmp_path / "stage.json").write_text("{")
    with pytest.raises(MedcodeError, match="the file"):
        read_stage(tmp_path / "stage.json")


def test_the_table():
    lines = comparison_table(compare(stages(), resamples=20)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0][1:] == ["untuned base", "frequency prior", "stage 1: code", "stage 2: reasoning"] + [
        "stage 3: preference"
    ]
    by_name = {row[0]: row[1:] for row in cells}
    assert [value.split()[0] for value in by_name["exact code"]] == ["0.100", "0.200", "0.750", "0.750", "0.750"]
    assert [value.split()[0] for value in by_name["win rate"]] == ["–", "–", "–", "0.500", "0.800"]
    assert "valid code" not in by_name  # measured without tables
    assert by_name["stage_3_prefers"][0] == "passed"


def test_the_picture():
    assert stage_bars(compare(stages(), resamples=20)).startswith(b"\x89PNG")
    assert stage_bars(compare(stages()[:1], resamples=20)).startswith(b"\x89PNG")


class Page(HTMLParser):
    """Checks that every element is closed where it should be, and keeps rows of tables."""

    def __init__(self, page):
        super().__init__()
        self.open, self.rows = [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f" {data}"


def test_the_page():
    page = comparison_page(compare(stages(after=4), resamples=20), title="<Stages> & more", facts=[("Base", "<b>x")])
    rows = [[" ".join(cell.split()) for cell in row] for row in Page(page).rows]
    main = next(row for row in rows if row[0] == "stage 2: reasoning")
    assert main[1].startswith("0.750 ")
    assert next(row for row in rows if row[0] == "right category, wrong code")[1:] == ["0 0.0 %"] * 5
    assert next(row for row in rows if row[0] == "right system, wrong category")[1] == "18 90.0 %"
    assert ["ICD-10-CM J20.9", "ICD-10-CM J40", "18"] in rows
    assert ["ICD-10-CM J20.9", "20", "0.100", "0.200", "0.750", "0.750", "0.750"] in rows
    assert "&lt;Stages&gt; &amp; more" in page
    assert "&lt;b&gt;x" in page
    assert "1 of 8 gates are not passed: stage_3_prefers." in page
    assert page.count('class="failed"') == 1
    assert "Zebediah" not in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"<script|https?://|src=|url\(", page)


@pytest.mark.parametrize("given", [1, 2, 3, 4, 5])
def test_a_page_of_some_stages(given):
    chosen = stages()[:given]
    page = comparison_page(compare(chosen, resamples=20), title="Stages")
    Page(page)
    assert all(STAGE_TITLES[stage.name] in page for stage in chosen)
