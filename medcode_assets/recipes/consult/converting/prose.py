"""Converter `outline`: a doctor's prose as a hierarchical list, by cue words alone; no network, always the same.

The first sentence that says what it is becomes the answer. The others go, as they are, below the heading of their cue
(cues.yaml); greetings and farewells are left out. Sentences of one heading that say nearly the same are put into one
point, and so are those behind the fifth.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from medcode_assets.recipes.consult.outline import Outline, Point, clean, render
from medcode_assets.recipes.consult.structure import check_structure, structure_rules
from medcode_assets.recipes.reasoning.support import content_words
from medcode_serving.evidence.sentences import sentences

_CUES = resources.files(__package__).joinpath("cues.yaml")
_GREETING_WORDS = 4
"""A greeting is no longer than this: `Hello there, sir,`."""
_BULLET = re.compile(r"^(?:[-*•]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+")


class Group(BaseModel):
    """A heading, and what tells that a sentence belongs below it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heading: str
    cues: tuple[str, ...]


class Cues(BaseModel):
    """cues.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    greetings: tuple[str, ...]
    polite: tuple[str, ...]
    answers: tuple[str, ...]
    groups: tuple[Group, ...]
    asked: tuple[str, ...]
    otherwise: str

    @model_validator(mode="after")
    def _headings_are_known(self) -> "Cues":
        known = {group.heading for group in self.groups}
        if set(self.asked) != known or self.otherwise not in known:
            raise ValueError("asked and otherwise name headings of groups")
        return self


def outline_prose(text: str) -> str | None:
    """Return a doctor's answer as a valid hierarchical list; None if it gives none.

    An answer that is a valid list already keeps its points.
    """
    there = check_structure(text)
    if there.valid:
        return render(there.outline)
    said = _said(text)
    if len(said) < 2:
        return None
    place = next((number for number, one in enumerate(said) if _patterns().answers.search(one.lower())), 0)
    answer = said[place]
    points = _points([one for number, one in enumerate(said) if number != place])
    written = render(Outline(answer, points))
    return written if check_structure(written).valid else None


def _said(text: str) -> list[str]:
    """Return the sentences that say something, each once, without greetings and marks of lists."""
    found: dict[str, str] = {}
    for start, end in sentences(text):
        one = _without_greeting(clean(_BULLET.sub("", text[start:end])))
        if content_words(one) and not _patterns().polite.match(one.lower()):
            found.setdefault(one.lower().rstrip(".!? "), one)
    return list(found.values())


def _without_greeting(sentence: str) -> str:
    if not _patterns().greeting.match(sentence.lower()):
        return sentence
    head, mark, rest = re.split(r"([,.!:])", f"{sentence},", maxsplit=1)
    if len(head.split()) > _GREETING_WORDS or not mark:
        return sentence
    rest = rest.removesuffix(",").strip()
    return rest[:1].upper() + rest[1:]


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
    patterns = _patterns().headings
    return next((heading for heading in read_cues().asked if patterns[heading].search(sentence.lower())), None)


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
        self.greeting = _any_of(cues.greetings)
        self.polite = _any_of(cues.polite)
        self.answers = _any_of(cues.answers)
        self.headings = {group.heading: _any_of(group.cues) for group in cues.groups}


@cache
def _patterns() -> _Patterns:
    return _Patterns(read_cues())


def _any_of(cues: Sequence[str]) -> re.Pattern[str]:
    written = (re.escape(cue).replace(r"\*", r"\w*") for cue in sorted(cues, key=len, reverse=True))
    return re.compile(rf"\b(?:{'|'.join(written)})\b")
