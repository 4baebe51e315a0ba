"""Hierarchical lists as models and people write them: read into an outline, and written in one form.

Numbers (`1.`, `2)`, `(3)`, `1.2`), letters (`a)`, `B.`), Roman numerals (`ii)`), bullets (`-`, `*`, `•` and others),
markdown headings and lines all in bold open a point. What lies deeper is told by indentation; where there is none, by
the marker: a kind that is not open yet begins a level below, one that is goes on there, and `1.2` belongs under `1.`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from medcode_serving.reasoned import END_THINK

TAB = 4
"""Columns of a tab."""
INDENT = 3
"""Columns by which `render` puts a level further right."""
SLACK = 1
"""Columns that do not count as indentation: lists copied by hand are a space off."""
BOLD_LEVEL = 7
"""A line in bold is a heading below markdown's six."""

DEEPEST = 20
"""Levels of points that are told apart; what lies deeper counts as one level."""

_BULLETS = "-*+•◦▪●○‣∙·–—"
_BULLET = re.compile(rf"([{re.escape(_BULLETS)}])(?:\s+|$)")
_HEADING = re.compile(r"(#{1,6})(?:\s+(.*?)\s*#*)?\s*$")
_BOLD = re.compile(r"(\*\*|__)(?=\S)((?:(?!\1).)+)\1\s*:?\s*$")
_BOLD_NUMBER = re.compile(r"(\*\*|__)(\(?\d{1,2}[.)])(?:(?P<closed>\1)\s+|\s+)")
_NUMBER = re.compile(r"\(?(\d{1,2})[.)](?:\s+|$)")
_NUMBERS = re.compile(r"(\d{1,2}(?:\.\d{1,2})+)[.)]?(?:\s+|$)")
_LETTER = re.compile(r"\(?([A-Za-z])[.)](?:\s+|$)")
_ROMAN = re.compile(r"\(?([ivx]{1,5}|[IVX]{1,5})[.)](?:\s+|$)")
_EMPHASIS = re.compile(r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1|(?<![\w*])\*(?=[^\s*])([^*]+?)(?<=[^\s*])\*(?![\w*])")
_FENCE = re.compile(r"^\s*```\w*\s*$")
_RULE = re.compile(r"^\s*([-*_=])(?:\s*\1){2,}\s*$")
_NUMERALS = ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")


@dataclass(frozen=True)
class Point:
    """A point of a list, with the points below it."""

    text: str
    """In one line, without its marker and emphasis."""
    below: tuple["Point", ...] = ()


@dataclass(frozen=True)
class Outline:
    """A text read as an answer and a hierarchical list."""

    answer: str
    """What stands before the list, in one line; may be empty."""
    points: tuple[Point, ...]
    closing: str = ""
    """What stands behind the list and belongs to no point."""


class _Marker(NamedTuple):
    """What opens a point."""

    kind: str
    """Two markers of one kind, at one place, are of one list."""
    place: tuple[int, ...]
    """Its number, or numbers; empty for a bullet."""
    rest: str
    heading: int = 0
    """Level of a heading, from 1; 0: none."""


@dataclass
class _Open:
    """A point that may still get points below it."""

    marker: _Marker
    indent: int
    texts: list[str]
    below: list["_Open"] = field(default_factory=list)

    def point(self) -> Point:
        return Point(clean(" ".join(self.texts)), tuple(one.point() for one in self.below))


def parse(text: str) -> Outline:
    """Return the outline of any text; a text without a list is all answer. Reasoning before `</think>` is left out."""
    reader = _Reader()
    for line in text.rpartition(END_THINK)[2].splitlines():
        if not _FENCE.match(line):
            reader.read("" if _RULE.match(line) else line)
    return reader.outline()


def render(outline: Outline) -> str:
    """Return an outline as text: the answer, numbered key points, bullets below them; `parse` reads the same again."""
    parts = [outline.answer] if outline.answer else []
    lines = [
        f"{number}. {point.text}".rstrip() + "".join(f"\n{line}" for line in _bullets(point.below, INDENT))
        for number, point in enumerate(outline.points, start=1)
    ]
    parts += ["\n".join(lines)] if lines else []
    parts += [outline.closing] if outline.closing else []
    return "\n\n".join(parts)


def _bullets(points: tuple[Point, ...], indent: int) -> Iterator[str]:
    for point in points:
        yield f"{' ' * indent}- {point.text}".rstrip()
        yield from _bullets(point.below, indent + INDENT)


def clean(text: str) -> str:
    """Return a text in one line, without markdown's emphasis."""
    text = " ".join(text.split())
    while True:
        plain = _EMPHASIS.sub(lambda found: found[2] or found[3], text)
        if plain == text:
            return text
        text = plain


_NUMBERED = ("number", "numbers", "heading")
"""Kinds of markers whose place is a number that others go on."""


def _heading(text: str, level: int) -> _Marker:
    """Return the marker of a heading, which may have a number of its own."""
    text = text.strip().removesuffix(":").rstrip()
    if found := _NUMBER.match(text):
        return _Marker("heading", (int(found[1]),), text[found.end() :], heading=level)
    return _Marker("heading", (), text, heading=level)


class _Reader:
    """Takes a text line by line."""

    def __init__(self) -> None:
        self._answer: list[str] = []
        self._closing: list[str] = []
        self._top: list[_Open] = []
        self._open: list[_Open] = []
        """From the outermost to the innermost."""
        self._after_blank = False

    def read(self, line: str) -> None:
        """Take in the next line."""
        line = line.expandtabs(TAB)
        stripped = line.strip()
        if not stripped:
            self._after_blank = True
            return
        indent = len(line) - len(line.lstrip())
        marker = self._marker(stripped)
        if marker is None:
            self._text(stripped, indent)
        else:
            self._point(marker, indent)
        self._after_blank = False

    def outline(self) -> Outline:
        """Return what was read."""
        points = tuple(one.point() for one in self._top)
        return Outline(clean(" ".join(self._answer)), points, clean(" ".join(self._closing)))

    def _marker(self, line: str) -> _Marker | None:
        if found := _HEADING.match(line):
            return _heading(found[2] or "", len(found[1]))
        if found := _BOLD.match(line):
            answers = not self._top and not self._answer and found[2].rstrip()[-1] in ".!?"
            return None if answers else _heading(found[2], BOLD_LEVEL)
        if found := _BOLD_NUMBER.match(line):
            opening = "" if found["closed"] else found[1]
            line = f"{found[2]} {opening}{line[found.end() :]}"
        if found := _BULLET.match(line):
            return _Marker(found[1], (), line[found.end() :])
        if found := _NUMBER.match(line):
            return _Marker("number", (int(found[1]),), line[found.end() :])
        if found := _NUMBERS.match(line):
            place = tuple(int(part) for part in found[1].split("."))
            return _Marker("numbers", place, line[found.end() :]) if self._continues(place) else None
        return self._lettered(line)

    def _continues(self, place: tuple[int, ...]) -> bool:
        """Whether numbers like 1.2 go on a list, and are no amount: 1.1 under 1., and 1.2 behind 1.1."""
        for one in reversed(self._open):
            known = one.marker.place if one.marker.kind in _NUMBERED else ()
            if known and known == place[:-1]:
                return place[-1] == 1
            if len(known) == len(place) and known[:-1] == place[:-1]:
                return known[-1] < place[-1] <= known[-1] + 2
        return False

    def _lettered(self, line: str) -> _Marker | None:
        """Return a letter or Roman numeral that begins a list or goes on with one; `E. coli` does neither."""
        roman, letter = _ROMAN.match(line), _LETTER.match(line)
        kinds = []
        if letter:
            kinds.append(("A" if letter[1].isupper() else "a", ord(letter[1].lower()) - ord("a") + 1, letter))
        if roman and roman[1].lower() in _NUMERALS:
            kinds.append(("I" if roman[1].isupper() else "i", _NUMERALS.index(roman[1].lower()) + 1, roman))
        for kind, number, found in kinds:
            before = next((one.marker.place[0] for one in reversed(self._open) if one.marker.kind == kind), None)
            if number == 1 or (before is not None and before < number <= before + 2):
                return _Marker(kind, (number,), line[found.end() :])
        return None

    def _text(self, text: str, indent: int) -> None:
        """Take a line without a marker: of the answer, of the point above it, or behind the list."""
        if not self._top:
            self._answer.append(text)
        elif self._closing:
            self._closing.append(text)
        elif self._open[-1].marker.heading:
            self._under_heading(text, indent)
        elif self._after_blank and indent <= SLACK:
            if any(one.marker.heading for one in self._open):
                while not self._open[-1].marker.heading:
                    self._open.pop()
                self._under_heading(text, indent)
            else:
                self._closing.append(text)
        else:
            self._open[-1].texts.append(text)

    def _under_heading(self, text: str, indent: int) -> None:
        """What stands under a heading is a point of its own."""
        self._add(_Open(_Marker("text", (), text), indent, [text]))

    def _point(self, marker: _Marker, indent: int) -> None:
        if self._closing:  # the list goes on behind what looked like its end
            self._top[-1].texts += self._closing
            self._closing = []
        self._close_for(marker, indent)
        self._add(_Open(marker, indent, [marker.rest] if marker.rest.strip() else []))

    def _close_for(self, marker: _Marker, indent: int) -> None:
        """Close the points that a new one does not lie below."""
        while self._open and not self._lies_below(marker, indent):
            self._open.pop()

    def _lies_below(self, marker: _Marker, indent: int) -> bool:
        above = self._open[-1]
        if marker.heading:
            return 0 < above.marker.heading < marker.heading
        if above.marker.heading:
            return True
        if above.marker.kind == "text":
            return False
        if marker.kind == "numbers":
            return above.marker.kind in _NUMBERED and above.marker.place == marker.place[:-1]
        if indent > above.indent + SLACK:
            return True
        if indent < above.indent - SLACK:
            return False
        return all(one.marker.kind != marker.kind for one in self._open if abs(one.indent - indent) <= SLACK)

    def _add(self, one: _Open) -> None:
        if len(self._open) >= DEEPEST:
            self._open.pop()
        (self._open[-1].below if self._open else self._top).append(one)
        self._open.append(one)
