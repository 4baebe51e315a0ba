"""What a valid hierarchical answer is, case by case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcode_assets.recipes.consult.structure import check_structure, structure_rules

GOOD = """You most likely have a common cold.

1. Assessment
   - A virus irritates nose and throat.
2. What to do
   - Rest for some days.
   - Drink warm fluids.
"""


def test_a_good_answer_has_nothing_wrong() -> None:
    found = check_structure(GOOD)
    assert found.valid
    assert (found.levels, found.most_points, found.answer_first, found.duplicates) == (3, 2, True, 0)
    assert found.overlap == 0.0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD.partition("\n\n")[2], "direct answer is missing"),
        (GOOD.replace("You most likely have a common cold.", "Here is a structured answer for you."), "announces"),
        (GOOD.replace("You most likely have a common cold.", "My answer is as follows:"), "announces"),
        (GOOD.replace("You most likely have a common cold.", "Rest."), "has 1 words"),
        (GOOD.replace("You most likely have a common cold.", "word " * 41), "has 41 words"),
        ("You have a cold.\n\n1. Rest\n2. Drink\n", "2 of at least 3 levels"),
        ("You have a cold, so rest.", "1 of at least 3 levels"),
        (GOOD + "   - Sleep.\n   - Gargle.\n   - Inhale.\n   - Wait.\n", "6 points under point 2"),
        (GOOD + "".join(f"{n}. Head {'x' * n}\n" for n in range(3, 7)), "6 points on the first level"),
        (GOOD + "   - rest for SOME days!\n", "Points 1 and 3 under point 2 say the same"),
        (GOOD + "   - Rest some days at home.\n", "Points 1 and 3 under point 2 overlap (75% of their words)"),
        (GOOD + "3.\n   - Gargle.\n", "no text"),
        (GOOD + "\n" + "word " * 41, "41 words stand behind the list"),
    ],
)
def test_each_rule_says_what_is_wrong(text: str, problem: str) -> None:
    found = check_structure(text)
    assert not found.valid
    # Without an answer, a level is missing, too.
    assert sum(problem in told for told in found.problems) == 1, found.problems
    assert len(found.problems) == (2 if "missing" in problem else 1), found.problems


def test_overlap_is_jaccard_of_content_words() -> None:
    # rest, left, foot and cool, left, foot: "the" is a stop word.
    text = "You have a cold.\n\n1. Do\n   - Rest the left foot.\n   - Cool the left foot.\n"
    assert check_structure(text).overlap == pytest.approx(2 / 4)
    assert check_structure(text).valid  # it is not above the limit


def test_key_points_are_compared_with_all_below_them() -> None:
    # rest, warm, tea, sleep and care, warm, tea, walk.
    text = "You have a cold.\n\n1. Rest\n   - Warm tea.\n   - Sleep.\n2. Care\n   - Warm tea.\n   - Walks.\n"
    assert check_structure(text).overlap == pytest.approx(2 / 6)


@pytest.mark.parametrize("label", ["## Short answer\n", "**Answer**\n", "# Bottom line:\n"])
def test_an_answer_may_stand_under_a_label(label: str) -> None:
    found = check_structure(
        f"{label}You most likely have a common cold.\n\n## Assessment\n- A virus.\n## Help\n- Rest.\n"
    )
    assert found.valid, found.problems
    assert found.outline.answer == "You most likely have a common cold."
    assert [point.text for point in found.outline.points] == ["Assessment", "Help"]


@given(st.text(max_size=300))
def test_problems_quote_nothing(text: str) -> None:
    marked = f"1. Qqzz{text}"
    for problem in check_structure(marked).problems:
        assert "Qqzz" not in problem


@given(st.integers(1, 8))
def test_points_are_counted_under_one_parent(count: int) -> None:
    details = "".join(f"   - {'abcdefgh'[n] * 4}\n" for n in range(count))
    found = check_structure(f"You have a cold.\n\n1. Head\n{details}")
    assert found.most_points == count
    assert found.valid == (count <= structure_rules().most_points)


@pytest.mark.parametrize("text", ["- rest\n" * 5_000, "".join(f"{'  ' * n}- rest {n}\n" for n in range(300))])
def test_what_loops_and_what_is_endless_is_checked_at_once(text: str) -> None:
    found = check_structure(text)
    assert not found.valid
    assert len(found.problems) < 12
    assert found.levels <= 21


def test_points_are_deepest_at_twenty() -> None:
    deep = "".join(f"{'  ' * n}- {n}\n" for n in range(300))
    assert check_structure(deep).levels == 20
