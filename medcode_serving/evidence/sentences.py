"""Where the sentences of a clinical note begin and end.

Notes are hard-wrapped prose, lists, headings and lines of their own, often without full stops: a new line ends a
sentence in a list but not in prose. No model, and no word list but that of abbreviations.
"""

import re

from medcode_serving.evidence.spans import trim

_BEFORE = "dr drs mr mrs ms prof st vs eg e.g i.e approx cf no incl esp"
_UNITS_AND_TIMES = """
mg mcg g kg ml dl l cc cm mm hr hrs min sec wk wks mo mos yr yrs q.d b.i.d t.i.d q.i.d p.o p.r.n i.v i.m s.c a.m p.m h.s
jan feb mar apr jun jul aug sep sept oct nov dec pt pts hx dx tx rx fx sx fig etc dept resp abd neuro
"""
_NEVER_LAST = frozenset(_BEFORE.split())
"""Abbreviations that stand before what they belong to."""
_SELDOM_LAST = frozenset(_UNITS_AND_TIMES.split())
"""Abbreviations that end a sentence only where a capital letter follows."""

_WRAPPED_AT_MOST = 130
"""Characters of a line. A note with a longer one is not hard-wrapped: there every new line ends a sentence."""
_WRAPPED_AT_LEAST = 60
"""Characters; no one wraps at less, so shorter lines were ended on purpose."""
_LONGEST_HEADING = 60

# Possessive, and begun at the first mark only: the time stays linear in any text.
_FULL_STOP = re.compile(r"""(?<![.!?])[.!?]++["')\]]*+\s++(?=(\S))""")
_WORD_BEFORE = re.compile(r"[^\s()\[\]\"']*$")
_LONGEST_ABBREVIATION = 8
_LINE_BEGINS = re.compile(r"(?:\A|\n)[ \t]*\Z")
_DEEPEST_INDENT = 20
_ENTRY = re.compile(r"[ \t]*(?:[-*#•·]+[ \t]|\d{1,2}[.)][ \t])")
_HEADING = re.compile(rf"[ \t]*[A-Z][^\n:.]{{0,{_LONGEST_HEADING}}}:(?=\s|$)")


def sentences(note: str) -> list[tuple[int, int]]:
    """Return start and end of each sentence, heading, list entry or line of its own, in order, without white space.

    Between two there is white space only.
    """
    cuts = sorted({0, len(note), *_line_cuts(note), *_full_stops(note)})
    trimmed = (trim(note, start, end) for start, end in zip(cuts, cuts[1:], strict=False))
    return [(start, end) for start, end in trimmed if start < end]


def _full_stops(note: str) -> list[int]:
    """Return where sentences begin behind a full stop."""
    cuts = []
    for match in _FULL_STOP.finditer(note):
        before = _WORD_BEFORE.search(note, max(0, match.start() - _LONGEST_ABBREVIATION), match.start())
        word, begin = before.group() if before else "", before.start() if before else match.start()
        initial = len(word) == 1 and word.isupper()
        number_of_entry = word.isdigit() and _LINE_BEGINS.search(note, max(0, begin - _DEEPEST_INDENT), begin)
        abbreviation = word.lower() in _NEVER_LAST or (word.lower() in _SELDOM_LAST and not match[1].isupper())
        if not (initial or number_of_entry or abbreviation):
            cuts.append(match.end())
    return cuts


def _line_cuts(note: str) -> list[int]:
    """Return where lines begin that do not go on with the sentence of the line before."""
    lines = note.split("\n")
    width = max(_WRAPPED_AT_LEAST, *map(len, lines))
    cuts, start = [], 0
    for line, following in zip(lines, lines[1:], strict=False):
        start += len(line) + 1
        if width > _WRAPPED_AT_MOST or not _goes_on(line, following, width):
            cuts.append(start)
    return cuts


def _goes_on(line: str, following: str, width: int) -> bool:
    """Tell whether a line was broken only because the next word had no room in it."""
    words = following.split(maxsplit=1)
    if not words or not line.strip() or line.rstrip().endswith(":"):
        return False
    if _ENTRY.match(following) or _HEADING.match(following):
        return False
    length = len(line.rstrip())
    return length + 1 + len(words[0]) > width or (words[0][0].islower() and length > width / 2)
