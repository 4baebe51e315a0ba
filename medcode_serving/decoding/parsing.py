"""The codes that a freely written answer names, where it names them, and how likely the model found them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from medcode_serving.codes.systems import undotted
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.reasoned import END_THINK, THINK, is_code_line, read_answer

_SEPARATORS = ",;\n"
_FRAGMENT = re.compile(rf"[^{_SEPARATORS}]+")
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:]*[A-Za-z0-9])?")
_GLUED = re.compile(r"(?:^\d{1,2}\.(?=[A-Za-z]))?([^:]+)")
"""What may be written against a code without a space: the number of a list's entry, a word with a colon."""


@dataclass(frozen=True)
class Mention:
    """A place of an answer that names a code."""

    index: int
    """Row of the vocabulary."""
    start: int
    """First character in the answer."""
    end: int
    """Character behind the last."""


@dataclass(frozen=True)
class ParsedAnswer:
    """What a free answer says."""

    mentions: tuple[Mention, ...]
    """The first mention of each code, in order."""
    dropped: int
    """Fragments without a code: parts that name none, words beside a code that look like one and are none."""
    reasoning: str | None = None
    """Of an answer whose codes are lines (`medcode_serving.reasoned`): what stands before them."""


def parse_answer(text: str, vocabulary: Vocabulary, *, cut: bool = False) -> ParsedAnswer:
    """Find the codes of a vocabulary in a free answer.

    Understood are commas, semicolons and new lines, missing dots, lower case, a trailing full stop, prose around the
    codes, and reasoning that ends in `</think>`. Reasoning without an end names no codes and counts as dropped.

    Args:
        text: The answer.
        vocabulary: The codes.
        cut: The answer was broken off. Its last fragment is dropped: half of E11.65 is a code as well.
    """
    if is_code_line(vocabulary.codes[0].text):
        return _parse_line(text, vocabulary, cut=cut)
    begin, end, dropped = text.rfind(END_THINK) + len(END_THINK), len(text), 0
    begin = begin if begin >= len(END_THINK) else 0
    if (thinking := text.find(THINK, begin)) >= 0:
        end, dropped = thinking, 1
    elif cut:
        end, dropped = max(begin, *(text.rfind(separator, begin) for separator in _SEPARATORS)), 1
    spellings = _spellings_of(vocabulary)
    found: dict[int, Mention] = {}
    for fragment in _FRAGMENT.finditer(text, begin, end):
        mentions, lost = _read_fragment(fragment, spellings)
        dropped += lost
        for mention in mentions:
            found.setdefault(mention.index, mention)
    return ParsedAnswer(tuple(found.values()), dropped)


def _parse_line(text: str, vocabulary: Vocabulary, *, cut: bool) -> ParsedAnswer:
    """Find the one code of an answer that names it in a line of its own."""
    answer = read_answer(text)
    found = re.compile(re.escape(answer.code), re.IGNORECASE) if answer.code else None
    # Behind the reasoning, which may name codes; and in front of a description, which may too.
    match = found.search(text, max(text.rfind(END_THINK), 0)) if found else None
    place = match.start() if match else -1
    broken_off = cut and answer.code is not None and place + len(answer.code) == len(text.rstrip())
    index = None if broken_off else _rows_of(vocabulary).get((answer.system, undotted(answer.code or "")))
    if answer.code is None or index is None:
        return ParsedAnswer((), 1, answer.reasoning)
    return ParsedAnswer((Mention(index, place, place + len(answer.code)),), 0, answer.reasoning)


def mention_probability(mention: Mention, tokens: Sequence[tuple[str, float | None]]) -> float | None:
    """Return the product of the probabilities of the tokens that a mention was written with; None if none is told.

    Args:
        mention: A place of the answer.
        tokens: Text and log-probability of each token, None where a server tells none; joined, the texts are the
            answer.
    """
    start, total, told = 0, 0.0, False
    for token, value in tokens:
        if start < mention.end and start + len(token) > mention.start and value is not None:
            total, told = total + value, True
        start += len(token)
    return math.exp(min(0.0, total)) if told else None


def _read_fragment(fragment: re.Match[str], spellings: "_Spellings") -> tuple[list[Mention], int]:
    """Return the codes of a part between separators, and how many of its words are lost."""
    mentions, lost, words = [], 0, 0
    for word in _WORD.finditer(fragment.string, fragment.start(), fragment.end()):
        words += 1
        if named := _named(word, spellings):
            mentions += named
        elif len(word[0]) >= 3 and any(map(str.isdigit, word[0])):
            lost += 1
    # Prose counts once, and only where it says nothing else.
    return mentions, lost or int(words > 0 and not mentions)


def _named(word: re.Match[str], spellings: "_Spellings") -> list[Mention]:
    index = spellings.look_up(word[0].upper())
    if index is not None:
        return [Mention(index, word.start(), word.end())]
    parts = ((spellings.look_up(part[1].upper()), part) for part in _GLUED.finditer(word[0]))
    return [
        Mention(index, word.start() + part.start(1), word.start() + part.end(1))
        for index, part in parts
        if index is not None
    ]


class _Spellings:
    """The codes' rows by text, and by text without dots where only one code is meant."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._exact = {code.text.upper(): index for index, code in enumerate(vocabulary.codes)}
        self._bare: dict[str, int] = {}
        shared: set[str] = set()
        for text, index in self._exact.items():
            if self._bare.setdefault(undotted(text), index) != index:
                shared.add(undotted(text))
        for text in shared:
            del self._bare[text]

    def look_up(self, word: str) -> int | None:
        """Return the row of the code that a word in upper case writes, None if it writes none."""
        return self._exact.get(word, self._bare.get(undotted(word)))


_KNOWN: WeakKeyDictionary[Vocabulary, _Spellings] = WeakKeyDictionary()


def _spellings_of(vocabulary: Vocabulary) -> _Spellings:
    # Of 75,000 codes the tables take a tenth of a second: once, not for every answer.
    spellings = _KNOWN.get(vocabulary)
    if spellings is None:
        spellings = _KNOWN[vocabulary] = _Spellings(vocabulary)
    return spellings


_ROWS: WeakKeyDictionary[Vocabulary, dict[tuple[str | None, str], int]] = WeakKeyDictionary()


def _rows_of(vocabulary: Vocabulary) -> dict[tuple[str | None, str], int]:
    rows = _ROWS.get(vocabulary)
    if rows is None:
        rows = {(code.system, undotted(code.code)): index for index, code in enumerate(vocabulary.codes)}
        _ROWS[vocabulary] = rows
    return rows
