"""Recall and false alarms on the labelled lines do not fall under what was measured, less a margin."""

from collections import Counter

import pytest

from benchmarks.safety import count, judge, read_lines, wilson
from medcode_serving.safety import load_rules

TUNED = judge(read_lines("tuned"))
HELD_OUT = judge(read_lines("held_out"))


def rates(judged: list, kind: str | None = None) -> tuple[float, float]:
    found, dangers, false, quiet = count(judged, kind)
    return found / dangers, false / quiet


def test_every_label_names_a_rule() -> None:
    rules = load_rules()
    ids = {row.id for row in rules.interactions.values()} | {rule.id for rule in rules.emergencies}
    ids |= {row.id for rows in rules.doses.values() for row in rows}
    assert {one["rule"] for line in read_lines() for one in line["expect"]} <= ids


def test_there_are_enough_lines_of_each_kind() -> None:
    kinds = Counter(one["kind"] for line in read_lines() for one in line["expect"])
    assert len(read_lines()) >= 250
    # a reviewer's finds are known to all
    ours = [line for line in read_lines() if not {"reviewer10", "trial10"} & set(line["tags"])]
    assert sum(line["held_out"] for line in ours) >= len(ours) // 2
    assert kinds["interaction"] >= 60 and kinds["emergency"] >= 90 and kinds["dose"] >= 50 and kinds["age"] >= 10
    assert sum(not line["expect"] for line in read_lines()) >= 100


@pytest.mark.parametrize(
    ("kind", "least_recall", "most_false"),
    [("interaction", 0.95, 0.02), ("emergency", 0.83, 0.03), ("dose", 0.92, 0.03), ("age", 0.9, 0.02)],
)
def test_held_out_lines(kind: str, least_recall: float, most_false: float) -> None:
    recall, false = rates(HELD_OUT, kind)
    assert recall >= least_recall
    assert false <= most_false


def test_tuned_lines() -> None:
    recall, false = rates(TUNED)
    assert recall >= 0.97
    assert false <= 0.02


@pytest.mark.parametrize("tag", ["adversarial", "unit_trap", "advice_trap", "emergency_trap"])
def test_hard_lines(tag: str) -> None:
    found, dangers, _, _ = count([*TUNED, *HELD_OUT], tag=tag)
    assert found / dangers >= 0.88


@pytest.mark.parametrize(
    "tag", ["negation", "emergency_negation", "advised", "lookalike", "emergency_generic", "limit"]
)
def test_what_must_stay_quiet(tag: str) -> None:
    _, _, false, quiet = count([*TUNED, *HELD_OUT], tag=tag)
    assert false <= 1
    assert quiet >= 6


def test_wilson() -> None:
    assert [round(bound, 4) for bound in wilson(9, 10)] == [0.5958, 0.9821]  # by hand: (0.9 + .192 ± .267) / 1.384
    assert wilson(0, 0) == (0.0, 1.0)
