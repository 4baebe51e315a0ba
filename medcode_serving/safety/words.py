"""The words of a plain text, with the sentence that each stands in."""

import re
from collections.abc import Callable
from dataclasses import dataclass

_WORD = re.compile(r"[@$]?[^\W_]+(?:[@$][^\W_]+)*(?:'[a-z]{1,2}(?![^\W_]))?|[;:]|(?P<end>(?<![.!?])[.!?]+(?=\s|$)|\n+)")
_VERBS = (
    "do", "does", "did", "is", "was", "are", "were", "have", "has", "had", "could", "should", "would", "must",
    "need",
)  # fmt: skip
_CONTRACTIONS = {
    **{
        f"{verb}{spelled}": (verb, "not")
        for verb in _VERBS
        for spelled in ("n't", "nt")
    },
    "can't": ("can", "not"),
    "cant": ("can", "not"),
    "cannot": ("can", "not"),
    "won't": ("will", "not"),
    "shan't": ("will", "not"),
    "im": ("i", "am"),
    "i'm": ("i", "am"),
    "ive": ("i", "have"),
    **{f"{who}'s": (who, "is") for who in ["it", "he", "she", "that", "there", "what", "where", "who"]},
    **{f"{who}'{short}": (who, full) for who in ["i", "you", "we", "they", "he", "she", "it"] for short, full in
       (("ve", "have"), ("re", "are"), ("ll", "will"), ("d", "would"))},
}  # fmt: skip
_ABBREVIATIONS = frozenset({
    "e.g", "i.e", "dr", "mr", "mrs", "st", "vs", "approx", "etc", "b.i.d", "t.i.d", "q.i.d", "q.d", "mg",
    "mcg", "ml", "kg", "lb", "g", "hr", "hrs", "tab",
})  # fmt: skip
"""A full stop after these ends a sentence only if the next word has a capital letter."""
_SAINT = "st"
"""Its full stop ends no sentence at all: "St. John's wort"."""
_LAST = re.compile(r"[\w.]+$")
_NEXT = re.compile(r"\S")
_LOOK_BACK = 1000
"""Characters. The head of a list is not looked for further back."""
_LONGEST_SENTENCE = 150
"""Words. No cue reaches further; it keeps the time in proportion to the length."""
_BULLET = re.compile(r"\s*(?:[-*•]|\d+[.)])\s")


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is matched, and where it stands in the plain text."""

    text: str
    start: int
    end: int
    sentence: int


def split_words(text: str, is_capital: Callable[[int], bool] = lambda place: False) -> list[Word]:
    """Return the words of a plain text; `;` and `:` are words, "don't" is two.

    A list under a line that ends in a colon belongs to that line's sentence.

    Args:
        text: In plain letters.
        is_capital: Whether the letter at a place was a capital one.
    """
    words: list[Word] = []
    sentence = 0
    began = 0
    for match in _WORD.finditer(text):
        if len(words) - began > _LONGEST_SENTENCE:
            began, sentence = len(words), sentence + 1
        if match.lastgroup is None:
            written = match[0]
            start, end = match.span()
            parts = _CONTRACTIONS.get(written)
            if parts is None:
                words.append(Word(written.partition("'")[0] if "'" in written else written, start, end, sentence))
            else:
                words.extend([Word(part, start, end, sentence) for part in parts])
        elif words and words[-1].sentence == sentence and _is_end(text, match, words[-1].text, is_capital):
            began, sentence = len(words), sentence + 1
    return words


def _is_end(text: str, match: re.Match[str], last: str, is_capital: Callable[[int], bool]) -> bool:
    """Tell whether a full stop or the end of a line ends a sentence."""
    if match["end"][0] == "\n":
        return not (last == ":" or text.endswith("-", 0, match.start())) and not (
            match["end"] == "\n" and _continues_list(text, match)
        )
    before = _LAST.search(text, max(0, match.start() - 12), match.start())
    if match["end"] == "." and before and before[0] in _ABBREVIATIONS:
        after = _NEXT.search(text, match.end())
        return after is None or (before[0] != _SAINT and is_capital(after.start()))
    return True


def _continues_list(text: str, match: re.Match[str]) -> bool:
    """Tell whether a line and the next are points of a list under a line that ends in a colon."""
    if not _BULLET.match(text, match.end()):
        return False
    lines = text[max(0, match.start() - _LOOK_BACK) : match.start()].split("\n")
    for line in reversed(lines):
        if not _BULLET.match(line + " "):
            return line.rstrip().endswith(":")
    return False
