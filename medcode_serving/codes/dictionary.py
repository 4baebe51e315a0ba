"""Every code that a bundle knows, with its description: to look up, to search, and to predict from.

A bundle knows the codes of its training notes and, with a linear baseline, the whole dictionary of the data's release.
"""

import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os.path import commonprefix
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medcode_serving.bundle import Bundle
from medcode_serving.codes.hierarchy import category
from medcode_serving.codes.systems import SYSTEMS, undotted
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.errors import MedcodeError
from medcode_serving.linear.files import CODE_COLUMNS
from medcode_serving.linear.files import CODES as LINEAR_CODES
from medcode_serving.linear.text import singular
from medcode_serving.reasoned import MARKERS, code_line, is_code_line

_WORD = re.compile(r"[^\W_]+")
_EXACT, _CODE_PREFIX, _WHOLE_WORDS, _WORD_PREFIXES, _NO_HIT = range(5)
"""How a code meets a search, the best first."""


@dataclass(frozen=True)
class KnownCode:
    """One code of the dictionary."""

    system: str
    code: str
    """With its system's dots."""
    description: str | None
    frequency: int
    """Training notes with the code."""
    predicted: bool
    """Whether the bundle was trained to predict it."""


class _WordIndex(NamedTuple):
    """The words of the descriptions and the rows that have them, as a sparse matrix."""

    words: list[str]
    """Sorted: words that begin alike are neighbours, and so are their rows."""
    starts: NDArray[np.int64]
    """[words + 1] Where a word's rows begin."""
    rows: NDArray[np.int32]


class Dictionary:
    """Codes in rows: the trained ones in the order of codes.parquet, then all others.

    Safe for use by several threads.
    """

    def __init__(self, trained: Sequence[VocabularyCode], others: Sequence[VocabularyCode] = ()) -> None:
        """Sort the codes.

        Args:
            trained: What the bundle predicts.
            others: Further codes, none of them among the trained ones; how completions write them is not looked at.
        """
        self._trained = tuple(trained)
        known = [*trained, *others]
        self._codes = [row.code for row in known]
        self._descriptions = [row.description for row in known]
        self._system = np.array([row.system for row in known], np.bytes_)
        self._frequency = np.array([row.frequency for row in known], np.int64)
        bare = np.array([undotted(row.code) for row in known], np.bytes_)
        self._sorted = np.argsort(bare, kind="stable")
        self._sorted_bare = bare[self._sorted]
        # Equal hits come by training frequency, then the shorter description; those without one come last.
        lengths = np.array([len(text) if text else 10_000 for text in self._descriptions])
        self._place = np.empty(len(known), np.int64)
        self._place[np.lexsort((lengths, -self._frequency))] = np.arange(len(known))

    @classmethod
    def read(cls, bundle: Bundle) -> "Dictionary":
        """Read the bundle's vocabulary and, where there is one, the linear baseline's list of codes.

        Raises:
            MedcodeError: a file is broken.
        """
        trained = Vocabulary.read(bundle.codes).codes
        listed = bundle.linear / LINEAR_CODES
        if not listed.exists():
            return cls(trained)
        seen = {(row.system, row.code) for row in trained}
        return cls(trained, [row for row in _read_listed(listed) if (row.system, row.code) not in seen])

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def codes(self) -> Iterator[KnownCode]:
        """All codes: the trained ones in the bundle's order, then the others."""
        return map(self._known, range(len(self)))

    def find(self, system: str, code: str) -> KnownCode | None:
        """Return a code, written with or without its dot and in any case; None if it is not known."""
        bare = undotted(code)
        for row in self._beginning(bare)[: len(SYSTEMS)].tolist():
            if self._bare(row) == bare and self._system[row] == system.encode():
                return self._known(row)
        return None

    def near(self, system: str, code: str, limit: int = 5) -> list[KnownCode]:
        """Return other codes of a code's category, those with the longest common beginning first.

        Raises:
            MedcodeError: the system is unknown.
        """
        bare = undotted(code)
        rows = [
            row
            for row in self._beginning(category(system, code)).tolist()
            if self._system[row] == system.encode() and self._bare(row) != bare
        ]
        rows.sort(key=lambda row: (-len(commonprefix([self._bare(row), bare])), self._place[row]))
        return [self._known(row) for row in rows[:limit]]

    def search(self, text: str, *, system: str | None = None, limit: int = 20) -> list[KnownCode]:
        """Return the codes that begin as the text does, and those whose description has all of its words.

        A word of the text may be the beginning of one of the description; case, accents and plurals do not matter.

        Returns:
            First the code itself, then codes that begin so, then descriptions that have every word whole, then the
            others; of equals the one more frequent in training, then the one with the shorter description.
        """
        found = self._by_words(_words(text))
        bare = undotted(text)
        beginning = self._beginning(bare)
        found[beginning] = _CODE_PREFIX
        # Of codes that begin alike, the shortest comes first in order: the code itself, once a system.
        exact = [row for row in beginning[: len(SYSTEMS)].tolist() if self._bare(row) == bare]
        found[exact] = _EXACT
        if system is not None:
            found[self._system != system.encode()] = _NO_HIT
        rows = np.flatnonzero(found != _NO_HIT)
        order = np.argsort(found[rows] * len(self) + self._place[rows])
        return [self._known(row) for row in rows[order[:limit]].tolist()]

    def vocabulary(self) -> Vocabulary:
        """Return all codes as a vocabulary: the trained ones as they are, then the others.

        Completions write a code of the others by its code, or as `system:code` where two systems share it; by its line
        where the trained ones are lines, and those of systems without a marker not at all.
        """
        sharing = Counter(self._codes)
        lines = bool(self._trained) and is_code_line(self._trained[0].text)

        def text(row: KnownCode) -> str | None:
            if lines:
                return code_line(row.system, row.code, row.description) if row.system in MARKERS else None
            return f"{row.system}:{row.code}" if sharing[row.code] > 1 else row.code

        others = [
            VocabularyCode(row.system, row.code, written, row.description, row.frequency)
            for row in islice(self.codes, len(self._trained), None)
            if (written := text(row)) is not None
        ]
        return Vocabulary([*self._trained, *others])

    def _known(self, row: int) -> KnownCode:
        return KnownCode(
            system=self._system[row].decode(),
            code=self._codes[row],
            description=self._descriptions[row],
            frequency=int(self._frequency[row]),
            predicted=row < len(self._trained),
        )

    def _bare(self, row: int) -> str:
        return undotted(self._codes[row])

    def _beginning(self, bare: str) -> NDArray[np.int64]:
        """Return the rows of the codes that begin so, in the order of their codes."""
        if not bare.isascii() or not bare.isalnum():
            return self._sorted[:0]
        first, end = np.searchsorted(self._sorted_bare, [bare.encode(), bare.encode() + b"\x7f"])
        return self._sorted[first:end]

    def _by_words(self, words: list[str]) -> NDArray[np.int64]:
        """Return for each row how its description meets the words, int64 [codes]."""
        found = np.full(len(self), _NO_HIT)
        if words:
            whole = [self._having(singular(word)) for word in words]
            begun = [has | self._having(word, prefix=True) for word, has in zip(words, whole, strict=True)]
            found[np.logical_and.reduce(begun)] = _WORD_PREFIXES
            found[np.logical_and.reduce(whole)] = _WHOLE_WORDS
        return found

    def _having(self, word: str, *, prefix: bool = False) -> NDArray[np.bool_]:
        """Return which rows have the word, or one that begins with it, bool [codes]."""
        index = self._index
        first = bisect_left(index.words, word)
        end = bisect_left(index.words, word + ("\U0010ffff" if prefix else "\0"))
        has = np.zeros(len(self), np.bool_)
        has[index.rows[index.starts[first] : index.starts[end]]] = True
        return has

    @cached_property
    def _index(self) -> _WordIndex:
        """Made at the first search; takes about a second for 150,000 codes."""
        number_of: dict[str, int] = {}
        spellings: dict[str, int] = {}
        numbers, lengths = [], []
        for description in self._descriptions:
            words = _words(description or "")
            for word in words:
                if word not in spellings:
                    spellings[word] = number_of.setdefault(singular(word), len(number_of))
                numbers.append(spellings[word])
            lengths.append(len(words))
        alphabetic = sorted(number_of)
        rank = np.empty(len(alphabetic), np.int64)
        rank[[number_of[word] for word in alphabetic]] = np.arange(len(alphabetic))
        ranks = rank[np.array(numbers, np.int64)]
        rows = np.repeat(np.arange(len(self), dtype=np.int32), lengths)[np.argsort(ranks, kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(ranks, minlength=len(alphabetic)))])
        return _WordIndex(alphabetic, starts, rows)


def _words(text: str) -> list[str]:
    """Return a text's words in lower case without accents; `Crohn's` is one word."""
    text = text.lower().replace("'", "").replace("’", "")
    if not text.isascii():
        text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return _WORD.findall(text)


def _read_listed(path: Path) -> list[VocabularyCode]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path, columns=list(CODE_COLUMNS)).to_pydict()
        rows = zip(*(columns[name] for name in CODE_COLUMNS), strict=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = f"cannot be read ({type(error).__name__})"
        raise MedcodeError(f"{path} {reason}; publish the bundle anew: medcode run") from None
    return [VocabularyCode(system, code, code, description, frequency) for system, code, description, frequency in rows]
