"""From what a model wrote to a hierarchical list, or to what is wrong with it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medcode_assets.recipes.consult.converting.faithful import unfaithful
from medcode_assets.recipes.consult.converting.requests import read_prompts
from medcode_assets.recipes.consult.outline import Outline, Point, clean, parse, render
from medcode_assets.recipes.consult.structure import check_structure
from medcode_assets.synthesis.replies import read_object

LONGEST_DEPTH = 6
"""Levels of details that are read; what lies deeper is no list that anybody reads."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Refused:
    """Why a reply is no list: kinds for counting, sentences for asking again."""

    kinds: tuple[str, ...]
    problems: tuple[str, ...]


def read_reply(text: str, doctor: str, question: str) -> str | Refused:
    """Return the list that a model wrote, in the one form of `render`; or what is wrong with it.

    Args:
        text: The model's whole reply: a JSON object, or a list as text.
        doctor: What it was to be made from.
        question: The patient's question; its numbers, words and drugs may be repeated.
    """
    if not text.strip():
        return unreadable("empty")
    outline = _outline(text)
    if outline is None:
        return unreadable("no_list")
    written = render(outline)
    problems = check_structure(written).problems
    if problems:
        return Refused(("structure",), problems)
    kinds = unfaithful(outline, doctor, question)
    if _numbers(outline) - set(_NUMBER.findall(f"{doctor} {question}")):
        kinds = ["new_numbers", *kinds]
    return _refused(kinds) if kinds else written


def unreadable(kind: str) -> Refused:
    """Return the refusal of a reply that is no list; `kind` is one of prompts.yaml's."""
    return _refused([kind])


def _refused(kinds: Sequence[str]) -> Refused:
    return Refused(tuple(kinds), tuple(read_prompts().unreadable[kind] for kind in kinds))


def _outline(text: str) -> Outline | None:
    found = read_object(text)
    if found is not None and "points" in found:
        points = _points(found["points"])
        answer = found.get("answer")
        return Outline(clean(answer) if isinstance(answer, str) else "", points) if points else None
    outline = parse(text)
    return outline if outline.points else None


def _points(value: Any, depth: int = 0) -> tuple[Point, ...]:
    """Return the points of a JSON value, whichever of the usual shapes a model gave it."""
    if not isinstance(value, list) or depth > LONGEST_DEPTH:
        return ()
    found = []
    for one in value:
        if isinstance(one, str) and one.strip():
            found.append(Point(clean(one)))
        elif isinstance(one, dict):
            text = next(
                (one[name] for name in ("point", "text", "title", "detail") if isinstance(one.get(name), str)), ""
            )
            below = next((one[name] for name in ("details", "points", "children") if one.get(name)), ())
            found.append(Point(clean(text), _points(below, depth + 1)))
    return tuple(found)


def _numbers(outline: Outline) -> set[str]:
    """Return the numbers of a list without those that count its key points."""
    texts = [outline.answer, outline.closing]

    def collect(points: tuple[Point, ...]) -> None:
        for point in points:
            texts.append(point.text)
            collect(point.below)

    collect(outline.points)
    return {number for text in texts for number in _NUMBER.findall(text)}
