"""Doses as people write them: "2 tablets of 500 mg every 4-6 hours", "10 mg/kg", "70 mg once a week"."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from medcode_serving.safety.numbers import COUNT_WORDS, NUMBER, NUMBER_WORDS, read_number
from medcode_serving.safety.units import Units

Basis = Literal["dose", "day", "concentration", "none"]
_PER = {
    "day": ("day", "d", "daily", "24 h", "24 hours", "24h"),
    "dose": ("dose", "tablet", "tab", "pill", "capsule", "cap"),
}
_N = rf"(?:{NUMBER}|{NUMBER_WORDS})"
_FORMS = r"(?:tablet|tab|pill|capsule|cap|caplet|gelcap|lozenge|caps|patch|patche|puff|suppositorie)s?"
_COUNT = rf"(?:(?P<low>{NUMBER}|{COUNT_WORDS})\s*(?:-|to|or)\s*)?(?P<count>{NUMBER}|{COUNT_WORDS})"
_COUNT_BEFORE = (
    re.compile(rf"{_COUNT}\s*[x*]\s*$"),
    re.compile(rf"{_COUNT}(?:\s+of\s+(?:the|your))?\s+$"),  # "three 500 mg tablets"
    re.compile(rf"{_COUNT}(?:\s+a)?\s*{_FORMS}\b(?:[^.;\d]|\.\S){{0,40}}$"),
)
_COUNT_BEHIND = (
    re.compile(rf"^\s*[x*]\s*{_COUNT}\b(?!\s*(?:/|x|times|a\b|per\b|daily|d\b))"),
    re.compile(rf"^\s*(?:{_FORMS})?\s*[,:(]\s*(?:take\s+|give\s+)?{_COUNT}\s*{_FORMS}\b"),
)
_COUNT_OF_NAME = re.compile(
    rf"(?<![\w./,:-])(?<!\bday )(?<!\bat )(?<!\bstep )(?<!\bage )(?<!\baged ){_COUNT}\s+(?:of\s+(?:the|your)\s+)?"
    r"(?:(?:extra|regular|double)[ -]strength\s+)?$"
)
_BOUGHT = re.compile(
    r"\b(?:bought|buy|have|has|got|ordered|dispense[ds]?|left|(?:pack|packet|box|bottle|supply|total) of)\s+$"
)
_FORM_BEHIND = re.compile(rf"^\s*-?(?:\w+\s+)?{_FORMS}\b")
_MOST_COUNT = 100


@dataclass(frozen=True)
class Quantity:
    """An amount with its unit."""

    start: int
    end: int
    amount: float
    """The larger of a range, times the count of tablets."""
    unit: str
    basis: Basis
    """One dose, a day's, a liquid's strength, or none of these (a rate, a level in blood)."""
    per_kg: bool
    per_volume: float = 0.0
    """Of a concentration: millilitres."""
    is_counted: bool = False
    """Whether the text says how many of it are taken at once."""


def find_quantities(text: str, units: Units) -> list[Quantity]:
    """Return the amounts in a text, in order.

    Args:
        text: In plain letters.
        units: Known units.
    """
    found = []
    end = 0
    for match in _pattern(units.pattern).finditer(text):
        low, high = (read_number(match[group]) if match[group] else 0.0 for group in ("low", "n"))
        per_kg, basis, volume = _per(match["per"] or "")
        amount, counted = max(low, high), None
        if basis == "dose" and not per_kg:
            counted = _count(text[end : match.start()][-60:], text[match.end() : match.end() + 40])
            amount *= counted or 1.0
        unit = units.spelled[match["unit"]]
        found.append(Quantity(match.start(), match.end(), amount, unit, basis, per_kg, volume, counted is not None))
        end = match.end()
    return found


@lru_cache(maxsize=8)
def _pattern(units: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?<![\w.,/])(?:(?P<low>{_N})\s*(?:(?:{units})\.?\s*)?(?:-|to|or)\s*)?(?P<n>{_N})\s*-?\s*(?P<unit>{units})(?![a-z0-9])\.?"
        r"(?P<per>(?:\s*(?:/|\bper\b|\bevery\b(?=\s+kg)|(?<=g)\s+a\b(?=\s+(?:kg|day)))\s*(?:\d+(?:\.\d+)?\s*)?(?:[a-z%][a-z0-9]*))*"
        r"|\s*(?:daily|a day|each day|in 24 h(?:ours)?)\b)?"
    )


def _per(written: str) -> tuple[bool, Basis, float]:
    """Return whether an amount is for a kilogram, what it is for, and the volume of a concentration."""
    bare = " ".join(re.sub(r"\b(?:per|every|each|a|in)\b", " ", written).split())
    parts = re.findall(r"(\d+(?:\.\d+)?)?\s*([a-z%][a-z0-9]*)", bare)
    per_kg, basis, volume = False, "dose", 0.0
    for number, unit in parts:
        if unit in {"kg", "kilo", "kilogram"}:
            per_kg = True
        elif unit in _PER["day"] or (number == "24" and unit in {"h", "hr", "hours", "hrs"}):
            basis = "day"
        elif unit in {"ml", "cc"}:
            basis, volume = "concentration", float(number or 1)
        elif unit not in _PER["dose"]:
            return per_kg, "none", 0.0
    return per_kg, basis, volume  # type: ignore[return-value]


def count_of_name(before: str) -> float:
    """Return how many are taken of a drug that is named before its strength: "8 Tylenol 500 mg".

    Args:
        before: The text before the name.
    """
    match = _COUNT_OF_NAME.search(before)
    if match and _BOUGHT.search(before, 0, match.start()):
        return 1.0
    return _most(match) if match else 1.0


def _count(before: str, behind: str) -> float | None:
    """Return how many of an amount are taken at once, if the text says so."""
    for place, pattern in enumerate(_COUNT_BEFORE):
        match = pattern.search(before)
        if match and (place != 1 or _FORM_BEHIND.match(behind)):
            return _most(match)
    for pattern in _COUNT_BEHIND:
        if match := pattern.match(behind):
            return _most(match)
    return None


def _most(match: re.Match[str]) -> float:
    count = max(read_number(match["count"]), read_number(match["low"]) if match["low"] else 0.0)
    return count if 0 < count <= _MOST_COUNT else 1.0
