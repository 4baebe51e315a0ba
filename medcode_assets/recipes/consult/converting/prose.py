"""Converter `outline`: a doctor's prose as a hierarchical list, by cue words alone; no network, always the same.

The first sentence that says what it is becomes the answer. The others go, as they are, below the heading of their cue
(cues.yaml); greetings and farewells that it knows go. Sentences of one heading that say nearly the same are put into
one point, and so are those behind the fifth.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from medcode_assets.recipes.consult.converting.patterns import any_of
from medcode_assets.recipes.consult.outline import Outline, Point, clean, render
from medcode_assets.recipes.consult.structure import check_structure, structure_rules
from medcode_assets.recipes.reasoning.support import content_words
from medcode_serving.evidence.sentences import sentences
from medcode_serving.linear.text import singular

_CUES = resources.files(__package__).joinpath("cues.yaml")
_GREETING_WORDS = 4
"""A greeting is no longer than this: `Hello there, sir,`."""
_NUMBER = re.compile(r"\d")
_BULLET = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+")


class Group(BaseModel):
    """A heading, and what tells that a sentence belongs below it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heading: str
    cues: tuple[str, ...]
    weak: tuple[str, ...] = ()
    """Cues that count only where no group has a cue."""


class Cues(BaseModel):
    """cues.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    greetings: tuple[str, ...]
    polite: tuple[str, ...]
    after_all: tuple[str, ...]
    answers: tuple[str, ...]
    groups: tuple[Group, ...]
    asked: tuple[str, ...]
    otherwise: str
    drugs_in: str
    drugs: tuple[str, ...]

    @model_validator(mode="after")
    def _headings_are_known(self) -> "Cues":
        known = {group.heading for group in self.groups}
        if set(self.asked) != known or not {self.otherwise, self.drugs_in} <= known:
            raise ValueError("asked, otherwise and drugs_in name headings of groups")
        return self


def outline_prose(text: str) -> str | None:
    """Return a doctor's answer as a valid hierarchical list; None if it gives none.

    An answer that is a valid list already keeps its points.
    """
    there = check_structure(text)
    if there.valid:
        return render(there.outline)
    said = said_sentences(text)
    if len(said) < 2:
        return None
    place = next((number for number, one in enumerate(said) if _patterns().answers.search(one.lower())), 0)
    answer = said[place]
    points = _points([one for number, one in enumerate(said) if number != place])
    written = render(Outline(answer, points))
    return written if check_structure(written).valid else None


def said_sentences(text: str) -> list[str]:
    """Return the sentences that say something, each once, without greetings, farewells and marks of lists."""
    found: dict[str, str] = {}
    for start, end in sentences(text):
        one = _without_courtesy(_without_greeting(clean(_BULLET.sub("", text[start:end]))))
        if content_words(one):
            found.setdefault(one.lower().rstrip(".!? "), one)
    return list(found.values())


def named_drugs(text: str) -> set[str]:
    """Return the drugs of a text as they are written there, in lower case and in the singular."""
    return {singular(found[0]) for found in _patterns().drugs.finditer(text.lower())}


def _without_courtesy(sentence: str) -> str:
    """Return a sentence; what it says after all if it is polite first, and nothing if it is polite only."""
    lower = sentence.lower().replace("’", "'")
    patterns = _patterns()
    if not (patterns.polite.match(lower) or patterns.farewell.fullmatch(lower.rstrip(".!? "))):
        return sentence
    if _NUMBER.search(lower) or patterns.drugs.search(lower):
        return sentence
    turn = patterns.after_all.search(lower)
    return _capital(sentence[turn.end() :].lstrip(" ,")) if turn else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _without_greeting(sentence: str) -> str:
    if not _patterns().greeting.match(sentence.lower()):
        return sentence
    head, mark, rest = re.split(r"([,.!:])", f"{sentence},", maxsplit=1)
    if len(head.split()) > _GREETING_WORDS or not mark:
        return sentence
    return _capital(rest.removesuffix(",").strip())


def _points(said: Sequence[str]) -> tuple[Point, ...]:
    groups: dict[str, list[str]] = {group.heading: [] for group in read_cues().groups}
    heading = read_cues().otherwise
    for one in said:
        heading = _heading(one) or heading
        groups[heading].append(one)
    return tuple(
        Point(heading, tuple(Point(text) for text in _apart(texts))) for heading, texts in groups.items() if texts
    )


def _heading(sentence: str) -> str | None:
    patterns = _patterns()
    strong = _headings_of(sentence.lower(), patterns.headings)
    found = strong or _headings_of(sentence.lower(), patterns.weak)
    return next((heading for heading in read_cues().asked if heading in found), None)


def _headings_of(sentence: str, patterns: Mapping[str, re.Pattern[str]]) -> set[str]:
    """Return the headings whose cues a sentence has; one inside another's longer cue does not count."""
    spans = [(*found.span(), heading) for heading, cues in patterns.items() for found in cues.finditer(sentence)]
    return {
        heading
        for start, end, heading in spans
        if not any(first <= start and end <= last and last - first > end - start for first, last, _ in spans)
    }


def _apart(texts: Sequence[str]) -> list[str]:
    """Return sentences with those put together that share too many words, and those behind the most that may be."""
    rules = structure_rules()
    kept: list[str] = []
    for text in texts:
        words = content_words(text)
        near = next(
            (place for place, one in enumerate(kept) if _overlap(content_words(one), words) > rules.most_overlap), None
        )
        if near is None and len(kept) < rules.most_points:
            kept.append(text)
        else:
            place = len(kept) - 1 if near is None else near
            kept[place] = f"{kept[place]} {text}"
    return kept


def _overlap(one: set[str], other: set[str]) -> float:
    together = len(one | other)
    return len(one & other) / together if together else 0.0


@cache
def read_cues() -> Cues:
    """Return what cues.yaml holds."""
    return Cues.model_validate(yaml.safe_load(_CUES.read_text(encoding="utf-8")))


class _Patterns:
    """The cues as patterns over lower-case text."""

    def __init__(self, cues: Cues) -> None:
        self.greeting = any_of(cues.greetings)
        self.polite = any_of([cue for cue in cues.polite if not cue.endswith(".")])
        self.farewell = any_of([cue.removesuffix(".") for cue in cues.polite if cue.endswith(".")])
        self.after_all = any_of(cues.after_all)
        self.answers = any_of(cues.answers)
        self.drugs = any_of(cues.drugs)
        more = {cues.drugs_in: cues.drugs}
        self.headings = {group.heading: any_of((*group.cues, *more.get(group.heading, ()))) for group in cues.groups}
        self.weak = {group.heading: any_of(group.weak) for group in cues.groups if group.weak}


@cache
def _patterns() -> _Patterns:
    return _Patterns(read_cues())
