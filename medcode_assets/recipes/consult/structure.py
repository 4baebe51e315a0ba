"""Whether an answer is a hierarchical list as the Pyramid Principle wants it, and if not, why.

Levels: the line that answers is the pyramid's top and level 1; the key points below it are level 2, their details
level 3, and so on. An answer is valid if it

- begins with the answer: prose of a few words up to a sentence or two, before any point, that announces nothing ("Here
  is ...:");
- has at least three levels;
- has at most five points under one parent;
- says nothing twice under one parent (same words, whatever their case and punctuation);
- keeps points under one parent apart: the Jaccard index of their content words, each with all that is below it, stop
  words left out, stays below a limit. This is the part of MECE that can be measured in a text: "mutually exclusive". It
  sees words and no meanings: synonyms pass. "Collectively exhaustive" cannot be told from the text alone.

The limits are in structure.yaml.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations, islice

import yaml
from pydantic import BaseModel, ConfigDict, Field

from medcode_assets.recipes.consult.outline import Outline, Point, parse
from medcode_assets.recipes.reasoning.support import content_words

MOST_COMPARED = 30
"""Points under one parent that are compared with each other; more are far too many anyway."""
MOST_TOLD = 3
"""Problems of one kind that are told; who is asked again needs no hundred."""
_RULES = resources.files(__package__).joinpath("structure.yaml")
_NOT_WORD = re.compile(r"[\W_]+")


class StructureRules(BaseModel):
    """structure.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_levels: int = Field(ge=1)
    most_points: int = Field(ge=1)
    least_answer_words: int = Field(ge=1)
    most_answer_words: int = Field(ge=1)
    most_overlap: float = Field(ge=0, le=1)
    most_closing_words: int = Field(ge=0)
    preambles: tuple[str, ...]
    answer_labels: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """What was found in one answer."""

    outline: Outline
    levels: int
    """The answer's line and the levels of points below it."""
    most_points: int
    """Points of the parent that has the most."""
    answer_first: bool
    duplicates: int
    """Points that say what an earlier one under their parent says."""
    overlap: float
    """Largest overlap of two points under one parent, in [0, 1]; 0 where no parent has two."""
    problems: tuple[str, ...]
    """Why it is not valid, a sentence each, in words that a model can be asked again with; they quote nothing."""

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@cache
def structure_rules() -> StructureRules:
    """Return what structure.yaml holds."""
    return StructureRules.model_validate(yaml.safe_load(_RULES.read_text(encoding="utf-8")))


def check_structure(text: str) -> Structure:
    """Return the structure of an answer; any text has one."""
    rules = structure_rules()
    outline = _with_labelled_answer(parse(text), rules)
    answer_problem = _answer_problem(outline.answer, rules)
    levels = bool(outline.answer) + _depth(outline.points)
    families = list(_families("", outline.points))
    most = max((len(points) for _, points in families), default=0)
    twice = [pair for parent, points in families for pair in _duplicates(parent, points)]
    overlaps = [found for parent, points in families for found in _overlaps(parent, points)]
    overlap = max((share for share, _ in overlaps), default=0.0)
    too_many = (
        f"There are {len(points)} points {_below(parent)}; give at most {rules.most_points}, and group the others."
        for parent, points in families
        if len(points) > rules.most_points
    )
    same = (f"Points {first} and {second} {_below(parent)} say the same; keep one." for parent, first, second in twice)
    near = (problem for share, problem in overlaps if problem and share > rules.most_overlap)
    problems = [
        *([answer_problem] if answer_problem else []),
        *_depth_problems(levels, rules),
        *(problem for kind in (too_many, same, near) for problem in islice(kind, MOST_TOLD)),
        *_stray_problems(outline, rules),
    ]
    return Structure(outline, levels, most, answer_problem is None, len(twice), overlap, tuple(problems))


def _with_labelled_answer(outline: Outline, rules: StructureRules) -> Outline:
    """Return an outline whose answer may have stood under a heading like "Short answer"."""
    if outline.answer or not outline.points or _same(outline.points[0].text) not in rules.answer_labels:
        return outline
    label, *others = outline.points
    answer, *points = [*label.below, *others] or [label]
    if answer is label or answer.below:
        return outline
    return Outline(answer.text, tuple(points), outline.closing)


def _answer_problem(answer: str, rules: StructureRules) -> str | None:
    words = answer.split()
    plain = f"{' '.join(words).lower()} "
    if not words:
        return (
            "The direct answer is missing; begin with one sentence that answers the question, before the first point."
        )
    if answer.endswith(":") or any(re.match(rf"{re.escape(begin)}\W", plain) for begin in rules.preambles):
        return "The first line announces the answer; leave that out and begin with the answer itself."
    if len(words) < rules.least_answer_words:
        return f"The direct answer has {len(words)} words; answer in a whole sentence."
    if len(words) > rules.most_answer_words:
        return (
            f"The direct answer has {len(words)} words; say it in at most {rules.most_answer_words} and move the rest "
            "into the list."
        )
    return None


def _depth_problems(levels: int, rules: StructureRules) -> Iterator[str]:
    if levels < rules.least_levels:
        yield (
            f"The answer has {levels} of at least {rules.least_levels} levels; give the direct answer, key points "
            "below it, and details below the key points."
        )


def _stray_problems(outline: Outline, rules: StructureRules) -> Iterator[str]:
    if any(not point.text for _, points in _families("", outline.points) for point in points):
        yield "A point has no text; fill it or take it out."
    words = len(outline.closing.split())
    if words > rules.most_closing_words:
        yield f"{words} words stand behind the list; move them into points."


def _depth(points: tuple[Point, ...]) -> int:
    return 1 + max(_depth(point.below) for point in points) if points else 0


def _families(parent: str, points: tuple[Point, ...]) -> Iterator[tuple[str, tuple[Point, ...]]]:
    """Yield all points that have one parent, with its place in the list: 2.1; empty for the key points."""
    if points:
        yield parent, points
    for number, point in enumerate(points, start=1):
        yield from _families(f"{parent}.{number}".lstrip("."), point.below)


def _duplicates(parent: str, points: tuple[Point, ...]) -> Iterator[tuple[str, int, int]]:
    first: dict[str, int] = {}
    for number, point in enumerate(points, start=1):
        text = _same(point.text)
        if text and text in first:
            yield parent, first[text], number
        first.setdefault(text, number)


def _overlaps(parent: str, points: tuple[Point, ...]) -> Iterator[tuple[float, str]]:
    """Yield the overlap of each two points of a family, with the sentence that says it; none if they are the same."""
    words = [frozenset().union(*map(content_words, _texts(point))) for point in points[:MOST_COMPARED]]
    for (first, one), (second, other) in combinations(enumerate(words, start=1), 2):
        together = len(one | other)
        share = len(one & other) / together if together else 0.0
        same = _same(points[first - 1].text) == _same(points[second - 1].text)
        said = f"Points {first} and {second} {_below(parent)} overlap ({share:.0%} of their words); keep them apart."
        yield share, "" if same else said


def _texts(point: Point) -> Iterator[str]:
    yield point.text
    for one in point.below:
        yield from _texts(one)


def _same(text: str) -> str:
    """Return what two texts share that say the same."""
    return _NOT_WORD.sub(" ", text.casefold()).strip()


def _below(parent: str) -> str:
    return f"under point {parent}" if parent else "on the first level of the list"
