"""Drugs of two people do not meet, and an age may be of somebody who takes nothing."""

import pytest

from medcode_serving.safety import check_safety

BOTH = ["warfarin+ibuprofen"]


def told(question: str, answer: str, kind: str) -> list[str]:
    return [one.rule for one in check_safety(answer, question=question).warnings if one.kind == kind]


@pytest.mark.parametrize(
    ("question", "answer", "rules"),
    [
        ("My mother takes warfarin. I take ibuprofen.", "Fine.", []),
        ("My mother is on warfarin; I take ibuprofen.", "Fine.", []),
        ("My husband takes warfarin and I take ibuprofen.", "Fine.", []),
        ("I take ibuprofen, and my mother takes warfarin.", "Fine.", []),
        # where it is not plain that they are two people
        ("My mother takes warfarin; she also takes ibuprofen.", "Fine.", BOTH),
        ("My mother takes warfarin.", "She may take ibuprofen.", BOTH),
        ("My father takes warfarin. May I give him ibuprofen?", "Yes.", BOTH),
        ("My wife says I take too much warfarin. I take ibuprofen too.", "Fine.", BOTH),
        ("My mother takes warfarin. I take warfarin too, and ibuprofen.", "Fine.", BOTH),
        ("My wife and I take warfarin. She also takes ibuprofen.", "Fine.", BOTH),
        ("My mother takes warfarin. I take care of her and give her ibuprofen.", "Fine.", BOTH),
        ("My mother takes warfarin. I take ibuprofen.", "Warfarin and ibuprofen go well together.", BOTH),
    ],
)
def test_who_takes_what(question: str, answer: str, rules: list[str]) -> None:
    assert told(question, answer, "interaction") == rules


@pytest.mark.parametrize(
    ("question", "answer", "rules"),
    [
        ("I'm breastfeeding my 4 month old baby. My head hurts.", "Take ibuprofen 400 mg.", []),
        ("I am nursing my baby. My head hurts.", "Take aspirin 500 mg.", []),
        ("I'm breastfeeding my 4 month old baby. He has a cold.", "Give ibuprofen.", ["ibuprofen/oral"]),
        ("My 4 month old is teething, I am breastfeeding.", "Give ibuprofen.", ["ibuprofen/oral"]),
        ("I have a 12 year old dog. My head hurts.", "Take aspirin 500 mg.", []),
        ("My cat is 9 years old. My head hurts.", "Take aspirin 500 mg.", []),
        ("My head hurts, I have a 3 year old prescription.", "Take aspirin 500 mg.", []),
        ("My dog is 3 years old and my son is 8 years old.", "Give your son aspirin.", ["aspirin/oral"]),
        ("My dog bit my 8 year old son.", "Give your son aspirin.", ["aspirin/oral"]),
    ],
)
def test_whose_age(question: str, answer: str, rules: list[str]) -> None:
    assert told(question, answer, "age") == rules
