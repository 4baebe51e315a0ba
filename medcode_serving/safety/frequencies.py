"""How often a dose is taken, as people write it; of a range the most often."""

import re

from medcode_serving.safety.numbers import NUMBER, NUMBER_WORDS, read_number

_N = rf"(?:{NUMBER}|{NUMBER_WORDS})"
_RANGE = rf"(?P<n>{_N})(?:\s*(?:-|to|or)\s*(?P<m>{_N}))?"
_EVERY = re.compile(
    rf"(?:\bevery|\beach|\bq)\s*\.?\s*{_RANGE}\s*-?\s*(?P<unit>minute|min|hour|hr|h|day|d|week|wk|month)s?\b"
)
_HOURS = {
    "min": 1 / 60,
    "minute": 1 / 60,
    "hour": 1.0,
    "hr": 1.0,
    "h": 1.0,
    "day": 24.0,
    "d": 24.0,
    "week": 168.0,
    "wk": 168.0,
    "month": 720.0,
}
_DAYS = {
    "day": 1,
    "daily": 1,
    "d": 1,
    "24 hours": 1,
    "24h": 1,
    "24 h": 1,
    "week": 7,
    "weekly": 7,
    "month": 30,
    "monthly": 30,
}
_TIMES = re.compile(
    rf"(?:{_RANGE}\s*-?(?:x|times|doses)|(?:\bonce or )?\b(?P<word>once|twice|thrice))"
    r"\s*-?\s*(?:/|a|per|each|every|in)?\s*"
    r"(?P<per>daily|day|d|24 ?h(?:ours)?|weekly|week|monthly|month)\b"
)
_TIMES_BEHIND = re.compile(rf"\bx\s*{_RANGE}\s*(?:times\s*)?(?P<per>daily|(?:/|a|per|each|every|in a)\s*(?:day|d))\b")
"""1000 mg x 8 daily; "x 3 d" is for three days."""
_WORDS = {"once": 1.0, "twice": 2.0, "thrice": 3.0}
_FIXED = (
    (re.compile(r"\b(?:every|each) other day\b|\balternate days?\b|\bqod\b"), 0.5),
    (re.compile(r"\bb\.?i\.?d\b"), 2.0),
    (re.compile(r"\bt\.?i\.?d\b|\bt\.?d\.?s\b"), 3.0),
    (re.compile(r"\bq\.?i\.?d\b|\bq\.?d\.?s\b"), 4.0),
    (re.compile(r"\b(?:hourly|(?:every|each) hour)\b"), 24.0),
    (re.compile(r"\b(?:with|before|after) (?:each |every |all )?meals?\b"), 3.0),
    (re.compile(r"\bmornings? and (?:evenings?|nights?|at night|at bedtime)\b"), 2.0),
    (re.compile(r"\b(?:weekly|(?:every|each|a|per) week|on (?:mon|tues|wednes|thurs|fri|satur|sun)days?)\b"), 1 / 7),
    (re.compile(r"\b(?:monthly|(?:every|each|a|per) month)\b"), 1 / 30),
    (
        re.compile(
            r"\b(?:nightly|at bedtime|at night|before bed|(?:every|each|in the) (?:morning|evening|night)|qhs|q\.?d)\b"
        ),
        1.0,
    ),
)
_DAILY = re.compile(r"\b(?:daily|(?:every|each|a|per) day|(?:in|over|within) 24 ?h(?:ours)?|per 24 ?h(?:ours)?)\b")


def times_a_day(text: str) -> float | None:
    """Return how many times a day a dose is taken; None where the text does not say.

    Args:
        text: What is said with the dose, in plain letters.
    """
    found = [24 / hours for hours in (_hours(match) for match in _EVERY.finditer(text)) if hours]
    found += [_times(match) for match in _TIMES.finditer(text)]
    found += [max(_amounts(match)) for match in _TIMES_BEHIND.finditer(text)]
    rest = _EVERY.sub(" ", _TIMES.sub(" ", text))
    found += [often for pattern, often in _FIXED if pattern.search(rest)]
    return max(found) if found else None


def is_daily(text: str) -> bool:
    """Tell whether a text says that something is for each day, and no more: "4 g a day"."""
    return bool(_DAILY.search(text))


def is_weekly(text: str) -> bool:
    """Tell whether a text speaks of weeks between doses."""
    return (times_a_day(text) or 1) < 1 or "week" in text


def _hours(match: re.Match[str]) -> float:
    return min(_amounts(match)) * _HOURS[match["unit"]]


def _times(match: re.Match[str]) -> float:
    most = _WORDS[match["word"]] if match["word"] else max(_amounts(match))
    per = match["per"]
    return most / (1 if per.startswith("24") else _DAYS[per])


def _amounts(match: re.Match[str]) -> list[float]:
    return [read_number(match[group]) for group in ("n", "m") if match[group]]
