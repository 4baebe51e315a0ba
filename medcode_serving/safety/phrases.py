"""A small language for phrases, and finding thousands of them in one pass over the words of a text.

`chest (pain*|tightness)`: words, `(a|b c|)` one of these, `word*` any word that begins so, `..` up to three words, none
of them a denial: "my face is not drooping" has no `face .. droop*`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medcode_serving.errors import MedcodeError
from medcode_serving.safety.words import Word, split_words

_GAP = 3
"""Words that `..` may stand for."""
_DENIAL = "(?:not|never|no|without) (?!stop|only|just|longer)"
_PREFIX_KEY = 3
_MARKS = re.compile(r"\(|\)|\||\.\.|[^\s()|]+")


@dataclass(frozen=True)
class _Term:
    text: str
    is_prefix: bool


@dataclass(frozen=True)
class _Gap:
    pass


@dataclass(frozen=True)
class _Choice:
    options: tuple["_Sequence", ...]


_Sequence = tuple[_Term | _Gap | _Choice, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """Where a phrase of a group stands: the words from `start` up to `end`."""

    group: str
    start: int
    end: int


class PhraseIndex:
    """Finds phrases by their groups. Nothing in it changes, so any number of threads may use it."""

    def __init__(self, groups: Mapping[str, Sequence[str]]) -> None:
        """Read the phrases.

        Args:
            groups: Phrases of each group.

        Raises:
            MedcodeError: A phrase cannot be read.
        """
        self.words: set[str] = set()
        """Every whole word of a phrase."""
        self.stems: defaultdict[str, set[str]] = defaultdict(set)
        """Every `word*` of each group, without its star."""
        self._by_word: defaultdict[str, list[tuple[str, re.Pattern[str]]]] = defaultdict(list)
        self._by_prefix: defaultdict[str, list[tuple[str, str, re.Pattern[str]]]] = defaultdict(list)
        for group, phrases in groups.items():
            for phrase in dict.fromkeys(phrases):
                sequence = _parse(phrase, group)
                for term in _all_terms(sequence):
                    (self.stems[group] if term.is_prefix else self.words).add(term.text)
                pattern = re.compile(_pattern(sequence))
                for term in dict.fromkeys(_first(sequence)):
                    if term.is_prefix:
                        self._by_prefix[term.text[:_PREFIX_KEY]].append((term.text, group, pattern))
                    else:
                        self._by_word[term.text].append((group, pattern))
        self._key_lengths = sorted({len(key) for key in self._by_prefix})

    def find(self, words: Sequence[Word]) -> list[Hit]:
        """Return where phrases stand, in order; of one group at one word the longest."""
        line, begins = _as_line(words)
        found: dict[tuple[str, int], int] = {}
        for place, word in enumerate(words):
            for group, pattern in self._starting(word.text):
                match = pattern.match(line, begins[place])
                if match:
                    end = place + line.count(" ", match.start(), match.end())
                    found[group, place] = max(end, found.get((group, place), 0))
        return [Hit(group, place, end) for (group, place), end in found.items()]

    def _starting(self, text: str) -> list[tuple[str, re.Pattern[str]]]:
        """Return the phrases that may begin with a word."""
        found = self._by_word.get(text, [])
        for length in self._key_lengths:
            listed = self._by_prefix.get(text[:length]) if length <= len(text) else None
            if listed:
                found = found + [(group, pattern) for prefix, group, pattern in listed if text.startswith(prefix)]
        return found


def _as_line(words: Sequence[Word]) -> tuple[str, list[int]]:
    """Return the words as one text that patterns match, and where each begins in it.

    A blank follows every word, a line break every sentence: no phrase reaches over it.
    """
    parts: list[str] = []
    begins: list[int] = []
    length = 0
    for place, word in enumerate(words):
        if place and word.sentence != words[place - 1].sentence:
            parts.append("\n")
            length += 1
        begins.append(length)
        parts.append(word.text + " ")
        length += len(word.text) + 1
    return "".join(parts), begins


def _pattern(sequence: _Sequence) -> str:
    """Return a sequence as a regular expression over `_as_line`."""
    parts = []
    for element in sequence:
        if isinstance(element, _Term):
            parts.append(re.escape(element.text) + ("[^ ]* " if element.is_prefix else " "))
        elif isinstance(element, _Gap):
            parts.append(rf"(?:(?!{_DENIAL})[^ \n]+ ){{0,{_GAP}}}")
        else:
            parts.append(f"(?:{'|'.join(_pattern(option) for option in element.options)})")
    return "".join(parts)


def _first(sequence: _Sequence) -> Iterator[_Term]:
    """Yield the words that a sequence may begin with."""
    for element in sequence:
        if isinstance(element, _Term):
            yield element
            return
        if isinstance(element, _Choice):
            for option in element.options:
                yield from _first(option)
            if all(element.options):
                return


def _all_terms(sequence: _Sequence) -> Iterator[_Term]:
    for element in sequence:
        if isinstance(element, _Term):
            yield element
        elif isinstance(element, _Choice):
            for option in element.options:
                yield from _all_terms(option)


def _parse(phrase: str, group: str) -> _Sequence:
    marks = _MARKS.findall(phrase)
    sequence, rest = _parse_sequence(marks, 0)
    if rest != len(marks) or not any(True for _ in _first(sequence)) or isinstance(sequence[0], _Gap):
        raise MedcodeError(f"cannot read the phrase {phrase!r} of {group}: brackets must match and a word begin it")
    return sequence


def _parse_sequence(marks: Sequence[str], at: int) -> tuple[_Sequence, int]:
    """Return the sequence that begins at a mark, and the mark after it."""
    found: list[_Term | _Gap | _Choice] = []
    while at < len(marks) and marks[at] not in ")|":
        if marks[at] == "(":
            options = []
            while at < len(marks) and marks[at] in "(|":
                option, at = _parse_sequence(marks, at + 1)
                options.append(option)
            if at >= len(marks):
                return (), -1
            found.append(_Choice(tuple(options)))
        elif marks[at] == "..":
            found.append(_Gap())
        else:
            found.extend(_terms(marks[at]))
        at += 1
    return tuple(found), at


@lru_cache(maxsize=4096)
def _terms(written: str) -> tuple[_Term, ...]:
    words = [word.text for word in split_words(written)] or [written]
    return tuple(_Term(word, written.endswith("*") and word is words[-1]) for word in words)
