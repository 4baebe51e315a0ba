"""What a code belongs to: its category (E11 of E11.9) and its chapter (E00-E89 of E11).

Chapters are data, in chapters.csv: those of ICD-10-CM, ICD-9-CM and its procedures, the sections of ICD-10-PCS and CPT
(surgery by body system, as CPT divides it), and the letters of HCPCS. A chapter may have several ranges of codes; no
two ranges of a system overlap.
"""

import csv
from bisect import bisect_right
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from medcode_serving.codes.systems import SYSTEMS, dotted, undotted

CATEGORY_LENGTH = {"icd9cm": 3, "icd9pcs": 2, "icd10cm": 3, "icd10pcs": 3, "hcpcs": 3, "cpt": 3}
"""Characters of a code's category. ICD-10-PCS: section, body system and operation. HCPCS and CPT have no categories;
three characters are a block of 100 neighbouring codes, about as wide as an ICD category."""


class Chapter(NamedTuple):
    """The widest division of a code system."""

    system: str
    name: str
    """I00-I99, 390-459, E000-E999, 35-39, 0: how the system itself writes its range."""
    title: str
    """For people: Diseases of the circulatory system."""


class _Range(NamedTuple):
    first: str
    last: str
    chapter: Chapter


def category(system: str, code: str) -> str:
    """Return the category of a code, with or without its dot: E11 of E11.9, E812 of E812.0, 0DT of 0DTJ4ZZ.

    A code that is its own category, or shorter, comes out as it is.

    Raises:
        MedcodeError: the system is unknown.
    """
    bare = undotted(dotted(system, code))
    external_cause = system == "icd9cm" and bare.startswith("E")
    return bare[: 4 if external_cause else CATEGORY_LENGTH[system]]


def chapter(system: str, code: str) -> Chapter | None:
    """Return the chapter of a code, with or without its dot; None if it is no code of the system or no range holds it.

    Raises:
        MedcodeError: the system is unknown.
    """
    whole = dotted(system, code)
    if not SYSTEMS[system].pattern.fullmatch(whole):
        return None
    place = _place(undotted(whole))
    ranges = _ranges()[system]
    before = bisect_right(ranges, place, key=attrgetter("first"))
    if not before:
        return None
    nearest = ranges[before - 1]
    return nearest.chapter if place[: len(nearest.last)] <= nearest.last else None


def _place(bare: str) -> str:
    """Return a code as its system orders it: CPT's fifth character, if it is a letter, names the list it is on."""
    is_listed = len(bare) == 5 and bare[:4].isdigit() and bare[4].isalpha()
    return bare[4] + bare[:4] if is_listed else bare


@cache
def _ranges() -> dict[str, list[_Range]]:
    ranges: dict[str, list[_Range]] = {system: [] for system in SYSTEMS}
    with Path(__file__).with_name("chapters.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found = Chapter(row["system"], row["chapter"], row["title"])
            ranges[found.system].append(_Range(_place(row["first"]), _place(row["last"]), found))
    return {system: sorted(held) for system, held in ranges.items()}
