"""Stretches of a note."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A stretch of the submitted text that supports a code."""

    start: int
    """Index of its first character in the text as it was submitted."""
    end: int
    """Index behind its last."""
    score: float
    """In [0, 1]."""


def trim(note: str, start: int, end: int) -> tuple[int, int]:
    """Return the stretch without white space at its ends; one of white space alone ends where it starts."""
    text = note[start:end]
    start += len(text) - len(text.lstrip())
    return start, max(start, start + len(text.strip()))


_BULLET = re.compile(r"[-*#•·]+[ \t]+(?=\S)")


def without_bullet(note: str, start: int, end: int) -> tuple[int, int]:
    """Return the stretch without the bullet of the list entry that it may be."""
    bullet = _BULLET.match(note, start, end)
    return (bullet.end() if bullet else start), end
