"""How many and how often, in words and before a drug's name."""

import pytest

from medcode_serving.safety import check_safety
from medcode_serving.safety.frequencies import times_a_day
from medcode_serving.safety.numbers import read_number


@pytest.mark.parametrize(
    ("answer", "is_told"),
    [
        ("8 Tylenol 500 mg three times daily.", True),
        ("2 Tylenol 500 mg three times daily.", False),
        ("Take ten of the Tylenol 500 mg.", True),
        ("Take 1/2 Tylenol 500 mg.", False),
        ("8 Tylenol 500 mg tablets.", True),  # not 8 times 8
        ("On day 8 Tylenol 500 mg.", False),
        ("8. Tylenol 500 mg.", False),
        ("You have 24 ibuprofen 200 mg left.", False),
        ("Take acetaminophen one thousand mg eight times a day.", True),
        ("Take acetaminophen one thousand mg three times a day.", False),
        ("Take ibuprofen two thousand five hundred mg.", True),
        ("1000mg x 8 daily of acetaminophen.", True),
        ("1000mg x 3 daily of acetaminophen.", False),
        ("Ibuprofen 3 g daily in one go.", True),
        ("Ibuprofen 3 g daily in three doses.", False),
    ],
)
def test_counts(answer: str, is_told: bool) -> None:
    assert any(one.kind == "dose" for one in check_safety(answer, question="My head hurts.").warnings) == is_told


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("one thousand", 1000),
        ("a thousand", 1000),
        ("two thousand five hundred", 2500),
        ("six hundred and fifty", 650),
        ("twenty-five", 25),
        ("half", 0.5),
    ],
)
def test_numbers_in_words(written: str, number: float) -> None:
    assert read_number(written) == number


def test_x_is_how_often_only_with_a_day() -> None:
    assert times_a_day("x 8 daily") == 8
    assert times_a_day("x 2-3 per day") == 3
    assert times_a_day("x 3 d") is None
