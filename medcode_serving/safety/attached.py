"""Which drug an amount belongs to, and what is said of how often it is taken."""

import re
from bisect import bisect_left
from dataclasses import dataclass, replace

from medcode_serving.safety.frequencies import is_daily, times_a_day
from medcode_serving.safety.names import Named
from medcode_serving.safety.quantities import Quantity, count_of_name, find_quantities
from medcode_serving.safety.reading import Reading
from medcode_serving.safety.units import Units

_BETWEEN = frozenset({
    "of", "oral", "po", "tablet", "tablets", "capsule", "capsules", "pill", "pills", "the", "generic",
    "strength", "doses", "dose", "liquid", "syrup",
})  # fmt: skip
_NEAR = 8
"""Words between a drug and its dose."""
_NEAR_BEHIND = 6
_SENTENCES_BACK = 2
_STRENGTH = 1
"""Words between a drug and its strength: "8 Tylenol Extra 500 mg"."""
_COUNT_BACK = 40
"""Characters before a drug in which its count stands."""
_AT_ONCE = re.compile(r"\b(?:in (?:one|a single) (?:go|dose)|(?:all )?at once|as (?:one|a single) dose)\b")
_BODY = ("kg", "lb")
_VOLUMES = ("ml", "l", "teaspoon", "tablespoon")


@dataclass(frozen=True)
class _Placed:
    """An amount among the words."""

    quantity: Quantity
    word: int
    """The first word of it."""
    behind: int
    """The first word behind it."""


@dataclass(frozen=True)
class Stated:
    """A dose of a drug as a text states it."""

    drug: str
    name: Named
    quantity: Quantity
    word: int
    """Where the amount stands among the words."""
    single: float | None
    """In the quantity's unit, for a kilogram if it says so."""
    daily: float | None
    times: float | None
    """A day."""
    told: str
    """What is said with it."""


def find_stated(text: Reading, units: Units, last_name: Named | None) -> list[Stated]:
    """Return the doses in a text, each with its drug; amounts that belong to no known drug are left out.

    Args:
        text: The question or the answer.
        units: Known units.
        last_name: The drug that is spoken of before the text begins.
    """
    letters = text.plain.text
    starts = [word.start for word in text.words]
    amounts = [one for one in find_quantities(letters, units) if one.basis != "none" and one.unit not in _BODY]
    liquids = [one for one in amounts if one.basis == "concentration"]
    placed = [
        _Placed(one, min(bisect_left(starts, one.start), len(starts) - 1), bisect_left(starts, one.end))
        for one in amounts
        if one.basis != "concentration"
    ]
    found = []
    known: Named | None = None
    for here, before, later in zip(placed, [None, *placed], [*placed[1:], None], strict=False):
        name = known = _name(text, here, before, known, last_name)
        if name is None or len(name.drugs) > 1 or name.drugs[0].startswith("class:"):
            continue
        quantity = _counted(text, here, name)
        after = letters[quantity.end : _segment_end(text, here, name, later)]
        ahead = letters[_segment_start(text, here, before) : quantity.start]
        if quantity.unit in _VOLUMES and liquids:
            quantity = _dissolved(quantity, liquids[-1], units)
        found.append(_stated(name, quantity, here.word, after, ahead))
    return found


def _counted(text: Reading, here: _Placed, name: Named) -> Quantity:
    """Return an amount times the count before the drug's name: "8 Tylenol 500 mg"."""
    quantity = here.quantity
    if quantity.is_counted or quantity.basis != "dose" or quantity.per_kg or quantity.unit in _VOLUMES:
        return quantity
    if not name.end <= here.word <= name.end + _STRENGTH:
        return quantity
    before = text.plain.text[: text.words[name.start].start]
    return replace(quantity, amount=quantity.amount * count_of_name(before[-_COUNT_BACK:]))


def _stated(name: Named, quantity: Quantity, word: int, after: str, ahead: str) -> Stated:
    times = times_a_day(after) or times_a_day(ahead)
    is_total = quantity.basis == "day" or (times is None and (is_daily(after) or is_daily(ahead)))
    amount = quantity.amount
    single = None if is_total and not _AT_ONCE.search(after) else amount
    daily = amount if is_total else amount * times if times else None
    often = None if is_total and quantity.basis != "day" and not times else times
    if is_total:
        often = often or 1.0
    return Stated(name.drugs[0], name, quantity, word, single, daily, often, ahead + " " + after)


def _name(
    text: Reading, here: _Placed, before: _Placed | None, known: Named | None, last_name: Named | None
) -> Named | None:
    """Return the drug that an amount belongs to.

    Args:
        text: The text.
        here: The amount.
        before: The amount before it.
        known: The drug of that one.
        last_name: The drug that is spoken of before the text begins.
    """
    first, last = text.bounds[text.sentence(here.word)]
    names = text.names_between(first, last)
    for name in names:
        if name.start >= here.behind and all(one.text in _BETWEEN for one in text.words[here.behind : name.start]):
            return name
    earlier = [name for name in names if name.end <= here.word]
    follows = before is not None and before.word >= max(first, earlier[-1].end if earlier else first)
    if before is not None and follows:
        return known if _goes_on(text, before.behind, here.word) else None
    if earlier:
        return earlier[-1] if here.word - earlier[-1].end <= _NEAR else None
    for name in names:
        if here.behind <= name.start <= here.behind + _NEAR_BEHIND:
            return name
    if not _goes_on(text, first, here.word):
        return None
    sentence = text.sentence(here.word)
    back = text.names_between(text.bounds[max(0, sentence - _SENTENCES_BACK)][0], first)
    return back[-1] if back else None if text.names else last_name


def _goes_on(text: Reading, start: int, end: int) -> bool:
    """Tell whether the words between an amount and what came before leave no room for another drug."""
    return all(word.text in text.goes_on or not word.text.isalpha() for word in text.words[start:end])


def _segment_end(text: Reading, here: _Placed, name: Named, later: _Placed | None) -> int:
    """Return where what is said of a dose ends: at the next amount, the next drug, or the end of the sentence."""
    _, last = text.bounds[text.sentence(here.word)]
    ends = [text.words[last - 1].end + 1]
    ends += [text.words[other.start].start for other in text.names_between(here.word + 1, last) if other != name][:1]
    ends += [later.quantity.start] if later else []
    return min(ends)


def _segment_start(text: Reading, here: _Placed, before: _Placed | None) -> int:
    first, _ = text.bounds[text.sentence(here.word)]
    return max(text.words[first].start, before.quantity.end if before else 0)


def _dissolved(volume: Quantity, liquid: Quantity, units: Units) -> Quantity:
    """Return how much of a drug a volume of a liquid holds."""
    millilitres = units.convert(volume.amount, volume.unit, "ml") or 0.0
    return replace(volume, amount=millilitres / (liquid.per_volume or 1.0) * liquid.amount, unit=liquid.unit)
