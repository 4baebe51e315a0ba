"""Who a question is about: age and weight, as far as it says."""

import re
from dataclasses import dataclass

from medcode_serving.safety.numbers import NUMBER, NUMBER_WORDS, read_number

_POUND = 0.45359237
_OLDEST = 120
_HEAVIEST = 400
_N = rf"(?:{NUMBER}|{NUMBER_WORDS})"
_YEARS = {
    "year": 1.0,
    "yr": 1.0,
    "y": 1.0,
    "month": 1 / 12,
    "mo": 1 / 12,
    "week": 7 / 365.25,
    "wk": 7 / 365.25,
    "day": 1 / 365.25,
}
_AGE = re.compile(
    rf"(?<![\w.])(?P<n>{_N})\s*-?\s*(?P<unit>year|yr|month|mo|week|wk|day|y)s?\s*-?\s*(?:of age|old|o\b|/o)"
    rf"|\b(?:aged?|age of|(?:is|am|turned|just)\s+aged?)\s*:?\s*(?P<n2>{_N})\b(?!\s*(?:week|month|mg|kg|%))"
    rf"|\b(?:son|daughter|child|boy|girl|kid|baby|he|she|i am|i'm|mother|father|grandmother|grandfather)"
    r"\s+(?:is|just turned)?\s*"
    rf"(?P<n3>{NUMBER})(?=\s*(?:$|[.,;!?\n]|and\b|years?\b|with\b))"
)  # fmt: skip
_GIVEN_TO = re.compile(
    rf"\b(?:your|this|(?:to|give|for)\s+(?:a|an|the))\s+(?P<n>{_N})\s*-?\s*(?P<unit>year|yr|month|mo|week|wk|day)s?\s*-?\s*old\b"
)
"""An age in an answer: of the one who is to take the drug, not of a limit ("children from 2 years on")."""
_WEIGHT = re.compile(
    rf"(?<![\w./])(?P<n>{NUMBER})\s*-?\s*(?P<unit>kg|kgs|kilos?|kilograms?|lbs?|pounds?)\b(?!\s*/|\s*of\b)"
)
_SMALL = {"newborn": 0.02, "neonate": 0.02, "infant": 0.9, "toddler": 2.0}
_BABY = re.compile(r"\b(?:my|our|his|her|the|your)\s+(?:\w+\s+)?(?P<who>newborn|neonate|infant|toddler)\b")
_CHILD = re.compile(
    r"\b(?:my|our|his|her|a|the|your)\s+(?:\w+\s+)?(?:child|kid|children|kids|baby|toddler|infant|newborn)\b"
)
_NURSLING = re.compile(
    r"\b(?:breast-? ?feed(?:ing)?|nursing|nurse|pumping for)\s+(?:my|our|a|the)\s+"
    r"(?:[\w.]+[\s-]+){0,5}?(?:old\b|baby\b|infant\b|newborn\b|son\b|daughter\b|child\b|toddler\b|twins\b)"
    r"(?:\s+(?:baby|infant|newborn|son|daughter|boy|girl|child|twins)\b)?"
)
"""A child that is not the patient, unless the question goes on about it."""
_OF_CHILD = re.compile(
    r"\b(?:he|she|(?:baby|child|son|daughter|infant|newborn)(?:'s)?)\s+(?:has|is|had|was|got|can|keeps?|will|needs?|feels?|may"
    r"|should|won't|can't|does|doesn't|cries|coughs|fever|temp)|\bg[ia]v(?:e|ing)\s+(?:him|her|it|my|the)\b"
    r"|\b(?:can|may|could|should)\s+(?:he|she|(?:the|my)\s+baby)\b|\bfor\s+(?:him|her)\b"
)
_NO_PERSON = (
    r"(?:dog|cat|puppy|kitten|pup|horse|pony|rabbit|bunny|hamster|pet|parrot|labrador|retriever|poodle|terrier|spaniel"
    r"|shepherd|collie|bulldog|beagle|car|house|bottle|prescription|pack|packet|box|scar|injury|wound|tattoo)s?\b"
)
_NO_PERSON_BEHIND = re.compile(rf"\s+(?:[a-z]+\s+){{0,2}}?{_NO_PERSON}")
_NO_PERSON_BEFORE = re.compile(rf"\b{_NO_PERSON},?\s+(?:(?:who|which|is|was|turned|just|now|only|about)\s+){{0,3}}$")
_NEAR = 40
"""Characters before an age that say whose it is."""
_ADULT = 18
_OLDER_CHILD = 11.0
"""Years, taken for a child whose age is not told: limits from 12 years on hold for it."""
_CHILD_DOSES = 12


@dataclass(frozen=True)
class Patient:
    """Who is to take the drugs."""

    age: float | None = None
    """Years."""
    weight: float | None = None
    """Kilograms."""
    child: bool = False
    """A child, of whatever age."""

    @property
    def has_child_doses(self) -> bool:
        """Whether limits by weight hold."""
        return self.age < _CHILD_DOSES if self.age is not None else self.child

    @property
    def age_for_limits(self) -> float | None:
        """The age that age limits are compared with."""
        return self.age if self.age is not None else _OLDER_CHILD if self.child else None


def read_patient(question: str, answer: str = "") -> Patient:
    """Return what a question says about the patient; the answer is asked for an age where the question has none.

    Args:
        question: In plain letters.
        answer: In plain letters.
    """
    question = _without_nursling(question)
    age = _age(question)
    if age is None and (told := _GIVEN_TO.search(answer)) and not _NO_PERSON_BEHIND.match(answer, told.end()):
        age = read_number(told["n"]) * _YEARS[told["unit"]]
        age = age if age <= _OLDEST else None
    weight = next(iter(_weights(question)), None)
    is_child = bool(_CHILD.search(question)) and "pregnan" not in question
    return Patient(age, weight, age < _ADULT if age is not None else is_child)


def _age(text: str) -> float | None:
    for match in _AGE.finditer(text):
        before = text[max(0, match.start() - _NEAR) : match.start()]
        if _NO_PERSON_BEHIND.match(text, match.end()) or _NO_PERSON_BEFORE.search(before):
            continue
        number = read_number(match["n"] or match["n2"] or match["n3"])
        years = number * _YEARS[match["unit"]] if match["unit"] else number
        if years <= _OLDEST:
            return years
    found = _BABY.search(text)
    return _SMALL[found["who"]] if found and "pregnan" not in text else None


def _without_nursling(question: str) -> str:
    """Return a question without the child that its asker feeds, if she asks for herself."""
    found = _NURSLING.search(question)
    if not found or _OF_CHILD.search(question, found.end()):
        return question
    return question[: found.start()] + " " * (found.end() - found.start()) + question[found.end() :]


def _weights(text: str) -> list[float]:
    found = []
    for match in _WEIGHT.finditer(text):
        kilograms = read_number(match["n"]) * (1.0 if match["unit"].startswith("k") else _POUND)
        if 0.5 <= kilograms <= _HEAVIEST:
            found.append(kilograms)
    return found
