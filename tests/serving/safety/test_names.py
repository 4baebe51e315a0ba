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


@pytest.mark.parametrize(
    "answer",
    ["Take St. John's wort.", "Take St. Johns wort.", "ST. JOHN'S WORT", "St. John\u2019s Wort", "St John's wort."],
)
def test_a_saint_ends_no_sentence(answer: str) -> None:
    (warning,) = check_safety(answer, question="I take warfarin.").warnings
    assert warning.rule == "warfarin+st. john's wort"
