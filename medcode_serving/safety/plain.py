"""A text as rules match it: lower case, no accents, look-alike letters made Latin; every letter knows where it was."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

_LOOK_ALIKES = dict(
    zip(
        "абвгԁеёзікӏмнорсѕтухһԝјԛүѵαβγεζηικνορτυχωɑɡıℓ",
        "a6brdee3iklmhopcstyxhwjqyvabyeznikvoptuxwagil",
        strict=True,
    )
)
"""Cyrillic, Greek and others, by how they look. The Greek mu of micrograms is the letter u."""
_AS = {
    **_LOOK_ALIKES,
    "μ": "u",
    "½": ".5",
    "¼": ".25",
    "¾": ".75",
    "⅓": ".33",
    "⅔": ".67",
    "‘": "'",
    "’": "'",
    "ʼ": "'",
    "´": "'",
    "`": "'",
    "\u202f": ",",  # a thin space between the digits of 10 000
    "\u2009": ",",
    "×": "x",
    "−": "-",
}
_ODD = re.compile(r"[^\x00-\x7f]")
_LONG_BLANK = re.compile(r"\s{9,}")
"""Patterns with two stretches of blanks would try every way to part a long one: quadratic time."""
_DROPPED = {"Cf", "Mn", "Me", "Cc", "Co", "Cs"}


@dataclass(frozen=True)
class Plain:
    """A text in plain letters."""

    text: str
    starts: range | list[int]
    """Where each letter began in the original."""
    original: str

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return where a stretch stood in the original text, with the accents after its last letter."""
        if end <= start:
            return (0, 0)
        last = self.starts[end - 1] + 1
        while last < len(self.original) and unicodedata.combining(self.original[last]):
            last += 1
        return (self.starts[start], last)


def plain(text: str) -> Plain:
    """Return a text in plain letters.

    Zero-width marks and soft hyphens go, full-width and styled letters become plain ones, long blanks short.

    Args:
        text: Any text.
    """
    return _with_short_blanks(_in_plain_letters(text))


def _in_plain_letters(text: str) -> Plain:
    if text.isascii():
        return Plain(text.lower(), range(len(text)), text)
    letters: list[str] = []
    starts: list[int] = []
    done = 0
    for match in _ODD.finditer(text):
        written = _write(match[0])
        letters += (text[done : match.start()].lower(), written)
        starts += range(done, match.start())
        starts += [match.start()] * len(written)
        done = match.end()
    letters.append(text[done:].lower())
    starts += range(done, len(text))
    return Plain("".join(letters), starts, text)


def _with_short_blanks(found: Plain) -> Plain:
    """Return a text with one blank, or two line breaks at most, in the place of every long stretch of blanks."""
    if not _LONG_BLANK.search(found.text):
        return found
    letters: list[str] = []
    starts: list[int] = []
    done = 0
    for match in _LONG_BLANK.finditer(found.text):
        short = "\n" * min(match[0].count("\n"), 2) or " "
        letters += (found.text[done : match.start()], short)
        starts += found.starts[done : match.start() + len(short)]
        done = match.end()
    letters.append(found.text[done:])
    starts += found.starts[done:]
    return Plain("".join(letters), starts, found.original)


@lru_cache(maxsize=4096)
def _write(letter: str) -> str:
    """Return how one letter is matched: no, one or several plain letters."""
    if letter in _AS:
        return _AS[letter]
    if letter.isspace() or letter in "\t\n\r":
        return "\n" if letter in "\n\r\u2028\u2029\x85\v\f" else " "
    if unicodedata.category(letter) == "Nd":
        return str(unicodedata.decimal(letter))
    if unicodedata.category(letter) == "No":
        return " "  # superscripts and numbers in circles are no doses
    if unicodedata.category(letter) == "Pd":
        return "-"
    written = "".join(
        _AS.get(part, part)
        for part in unicodedata.normalize("NFKD", letter).casefold()
        if unicodedata.category(part) not in _DROPPED
    )
    return written.lower()
