"""The sections of a discharge summary: where they begin, and which of them a short prompt keeps.

The list of sections is data, `sections.yaml`. Nothing here knows a tokenizer: lengths and budgets are counts of tokens
that the caller measured.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

TEXT = "text"
"""Name of what stands before the first heading."""
LEAST_TOKENS = 16
"""A section is not cut to less than this: a heading with a few words says nothing."""
LONGEST_HEADING = 80
"""A longer line, or one with its first colon further on, is no heading."""


class Section(BaseModel):
    """One kind of section, as `sections.yaml` lists it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    priority: int
    """1 is kept first."""
    headings: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A stretch of a note under one heading, from its heading's line to the next heading's."""

    name: str
    start: int
    end: int
    priority: int


@dataclass(frozen=True)
class Plan:
    """How much of each part of a note is kept."""

    kept: tuple[int, ...]
    """Tokens kept of each part, 0 for a dropped one."""
    cut: tuple[str, ...]
    """Names of the sections that are shortened or dropped, in the note's order."""


@cache
def sections() -> tuple[Section, ...]:
    """Return the sections that `sections.yaml` lists."""
    return tuple(Section.model_validate(entry) for entry in yaml.safe_load(_data()))


def sections_hash() -> str:
    """Return the sha256 of `sections.yaml`: notes that were cut by another list must be cut anew."""
    return hashlib.sha256(_data()).hexdigest()


def split_note(note: str) -> list[Part]:
    """Return the parts of a note, in order; together they are the whole note."""
    known = _by_heading()
    found: list[tuple[int, Section]] = []
    start = 0
    for line in note.split("\n"):
        heading = line.partition(":")[0]
        # Most lines are prose: looking at their length first halves the time.
        if len(heading) <= LONGEST_HEADING and (section := known.get(_spelling(heading))):
            found.append((start, section))
        start += len(line) + 1
    if not found or found[0][0] > 0:
        found.insert(0, (0, next(section for section in sections() if section.name == TEXT)))
    ends = [start for start, _ in found[1:]] + [len(note)]
    return [Part(section.name, start, end, section.priority) for (start, section), end in zip(found, ends, strict=True)]


def plan(parts: Sequence[Part], lengths: Sequence[int], budget: int) -> Plan:
    """Decide what is kept of a note within a budget.

    Parts are taken in the order of their priority while they fit whole. The first that does not is cut at its end, if
    `LEAST_TOKENS` are left for it or nothing else is kept; what comes after it is dropped.

    Args:
        parts: The note's parts.
        lengths: Tokens of each part.
        budget: Tokens to keep in all.
    """
    kept = [0] * len(parts)
    left = budget
    for place in sorted(range(len(parts)), key=lambda place: parts[place].priority):
        if lengths[place] <= left:
            kept[place] = lengths[place]
            left -= lengths[place]
            continue
        if left >= LEAST_TOKENS or not any(kept):
            kept[place] = left
        break
    cut = [part.name for part, tokens, length in zip(parts, kept, lengths, strict=True) if tokens < length]
    return Plan(tuple(kept), tuple(dict.fromkeys(cut)))


def join_parts(texts: Sequence[str]) -> str:
    """Return what is kept of a note's parts as one text, each beginning on a line of its own."""
    joined = ""
    for text in texts:
        joined += text if not joined or joined.endswith("\n") else "\n" + text
    return joined


@cache
def _by_heading() -> dict[str, Section]:
    return {_spelling(heading): section for section in sections() for heading in section.headings}


def _spelling(heading: str) -> str:
    """Return how a heading is looked up: without regard to case and to the width of white space."""
    return " ".join(heading.lower().split())


@cache
def _data() -> bytes:
    return resources.files("medcode_serving").joinpath("sections.yaml").read_bytes()
