"""Which drug an amount belongs to, and what is said of how often it is taken."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medcode_serving.safety.frequencies import is_daily, times_a_day
from medcode_serving.safety.names import Named
from medcode_serving.safety.quantities import Quantity, find_quantities
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
_BODY = ("kg", "lb")
_VOLUMES = ("ml", "l", "teaspoon", "tablespoon")


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
    doses = [(one, bisect_left(starts, one.start)) for one in amounts if one.basis != "concentration"]
    found = []
    known: dict[int, Named | None] = {}
    for place, (quantity, word) in enumerate(doses):
        word = min(word, len(text.words) - 1)
        before = doses[place - 1] if place else None
        name = _name(text, word, _behind(text, quantity), before, known, last_name)
        known[place] = name
        if name is None or len(name.drugs) > 1 or name.drugs[0].startswith("class:"):
            continue
        if quantity.unit in _VOLUMES and liquids:
            quantity = _dissolved(quantity, liquids[-1], units)
        after = letters[quantity.end : _segment_end(text, word, name, doses[place + 1 :])]
        ahead = letters[_segment_start(text, word, before) : quantity.start]
        found.append(_stated(name, quantity, word, after, ahead))
    return found


def _stated(name: Named, quantity: Quantity, word: int, after: str, ahead: str) -> Stated:
    times = times_a_day(after) or times_a_day(ahead)
    is_total = quantity.basis == "day" or (times is None and (is_daily(after) or is_daily(ahead)))
    amount = quantity.amount
    single = None if is_total else amount
    daily = amount if is_total else amount * times if times else None
    often = None if is_total and quantity.basis != "day" and not times else times
    if is_total:
        often = often or 1.0
    return Stated(name.drugs[0], name, quantity, word, single, daily, often, ahead + " " + after)


def _name(
    text: Reading,
    word: int,
    behind: int,
    before: tuple[Quantity, int] | None,
    known: dict[int, Named | None],
    last_name: Named | None,
) -> Named | None:
    """Return the drug that an amount belongs to."""
    sentence = text.words[word].sentence
    here = [name for name in text.names if text.sentence(name.start) == sentence]
    for name in here:
        if name.start >= behind and all(one.text in _BETWEEN for one in text.words[behind : name.start]):
            return name
    earlier = [name for name in here if name.end <= word]
    is_first = before is None or text.words[min(before[1], len(text.words) - 1)].sentence != sentence
    if earlier:
        name = earlier[-1]
        since = name.end if is_first or before[1] < name.end else _behind(text, before[0])  # type: ignore[index]
        if since == name.end:
            return name if word - since <= _NEAR else None
        return known.get(max(known)) if known and _goes_on(text, since, word) else None
    if not is_first:
        return known.get(max(known)) if known and _goes_on(text, _behind(text, before[0]), word) else None  # type: ignore[index]
    for name in here:
        if behind <= name.start <= behind + _NEAR_BEHIND:
            return name
    begins = next(place for place, one in enumerate(text.words) if one.sentence == sentence)
    if not _goes_on(text, begins, word):
        return None
    back = [name for name in text.names if sentence - _SENTENCES_BACK <= text.sentence(name.start) < sentence]
    return back[-1] if back else None if text.names else last_name


def _goes_on(text: Reading, start: int, end: int) -> bool:
    """Tell whether the words between an amount and what came before leave no room for another drug."""
    return all(word.text in text.goes_on or not word.text.isalpha() for word in text.words[start:end])


def _behind(text: Reading, quantity: Quantity) -> int:
    """Return the first word behind an amount."""
    return next((place for place, word in enumerate(text.words) if word.start >= quantity.end), len(text.words))


def _segment_end(text: Reading, word: int, name: Named, later: Sequence[tuple[Quantity, int]]) -> int:
    """Return where what is said of a dose ends: at the next amount, the next drug, or the end of the sentence."""
    sentence = text.words[word].sentence
    ends = [one.start for one, _ in later[:1]]
    ends += [text.words[other.start].start for other in text.names if other.start > word and other != name][:1]
    last = next((one for one in reversed(text.words) if one.sentence == sentence), text.words[-1])
    return min([last.end + 1, *ends])


def _segment_start(text: Reading, word: int, before: tuple[Quantity, int] | None) -> int:
    sentence = text.words[word].sentence
    first = next(one for one in text.words if one.sentence == sentence).start
    return max(first, before[0].end) if before else first


def _dissolved(volume: Quantity, liquid: Quantity, units: Units) -> Quantity:
    """Return how much of a drug a volume of a liquid holds."""
    millilitres = units.convert(volume.amount, volume.unit, "ml") or 0.0
    return replace(volume, amount=millilitres / (liquid.per_volume or 1.0) * liquid.amount, unit=liquid.unit)
