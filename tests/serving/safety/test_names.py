"""Every name of the tables is found however its letters and apostrophes are written."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from medcode_serving.safety import check_safety, load_rules
from medcode_serving.safety.reading import read_text

SAFETY = Path(__file__).parents[3] / "medcode_serving/safety"


def written_names() -> dict[str, str]:
    with (SAFETY / "drugs.csv").open(encoding="utf-8", newline="") as file:
        return {
            name.strip(): row["name"]
            for row in csv.DictReader(file)
            for name in (row["name"], *row["brands"].split(";"), *row["also"].split(";"))
            if name.strip()
        }


def in_title(name: str) -> str:
    return re.sub(r"(?<![\w'])[a-z]", lambda letter: letter[0].upper(), name)


@pytest.mark.parametrize("style", [str, in_title, str.upper])
@pytest.mark.parametrize("apostrophe", ["'", "\u2019"])
def test_every_name_is_found(style: Callable[[str], str], apostrophe: str) -> None:
    rules, missed = load_rules(), []
    for name, drug in written_names().items():
        text = f"Take {style(name).replace(chr(39), apostrophe)}. Rest."
        found = [one for named in read_text(text, "answer", rules).names for one in named.drugs]
        missed += [] if drug in found else [text]
    assert missed == []


def test_a_name_is_found_with_a_letter_left_out_or_too_many() -> None:
    """But where the misspelling is as near to another drug: quinine and quinidine, Macrobid and the macrolides."""
    rules, missed = load_rules(), set()
    for name, drugs in rules.names.single_words.items():
        if len(name) < 7 or not name.isalpha():
            continue
        middle = len(name) // 2
        for written in (name[:middle] + name[middle + 1 :], *(name + letter for letter in "aeno")):
            named = read_text(f"Take {written}. Rest.", "answer", rules).names
            missed |= set() if any(one.drugs == drugs for one in named) else {written}
    assert missed <= {"quindine", "macrobide"}


@pytest.mark.parametrize("word", ["buffering", "adrenal", "nicotinic", "alcoholic", "metformins"])
def test_endings_are_no_errors(word: str) -> None:
    rules = load_rules()
    (found,) = read_text(word, "answer", rules).words
    assert found.text == word


@pytest.mark.parametrize(
    "answer",
    ["Take St. John's wort.", "Take St. Johns wort.", "ST. JOHN'S WORT", "St. John\u2019s Wort", "St John's wort."],
)
def test_a_saint_ends_no_sentence(answer: str) -> None:
    (warning,) = check_safety(answer, question="I take warfarin.").warnings
    assert warning.rule == "warfarin+st. john's wort"
