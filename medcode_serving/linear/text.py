"""A note as the three scorers read it. Words are hashed at once: no word of a note is stored in a model."""

import hashlib
import re
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

COLUMNS = 1 << 18
"""Hashed TF-IDF columns, words and character n-grams together."""

BREAK = -1
"""Stands between sentences in a sequence of word ids."""

# Words, numbers with their decimals, and ends of sentences. Notes are hard-wrapped, so a new line alone ends nothing,
# but an empty line and a list's next entry do.
_TOKENS = re.compile(r"[^\W_]+(?:[.'’]\d+)*|[.;:!?](?=\s|$)|\n\s*(?:\n|[-*#•]|\d+[.)]\s)")

_STOP = """
a after also an and are as at be because been between but by due during for from had has have he her his in is it its no
not of on or patient she that the their there this to was we were which who with without
"""
_GENERIC = "classified elsewhere encounter initial nec nos other sequela specified subsequent unspecified"
STOP_WORDS = frozenset(re.findall(r"\w+", _STOP))
_GENERIC_WORDS = frozenset(re.findall(r"\w+", _GENERIC))
"""Of titles; no note says them."""
_STEM_LETTERS = 6
_KEPT_LETTERS = 14
_CACHED_WORDS = 500_000

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: Fibonacci hashing


@dataclass(frozen=True)
class NoteFeatures:
    """One note; everything in it is a hash or a count."""

    phrases: np.ndarray
    """Words and neighbouring pairs of words, uint64, ascending, each once."""
    columns: np.ndarray
    """TF-IDF columns in the note, int64, each once per group."""
    counts: np.ndarray
    """How often the column occurs, float32."""
    words: int
    """The first so many columns are words, the others character n-grams."""
    sentences: list[np.ndarray]
    """Title stems of each sentence, uint64, as they stand there."""


class WordTable:
    """Every distinct word's hashes, worked out once.

    A table that grew to half a million words starts afresh at the next note, so that a server's memory stays bounded;
    ids from before are void then. Training spools ids, and so sets no limit.
    """

    def __init__(self, limit: int | None = _CACHED_WORDS) -> None:
        """Start empty.

        Args:
            limit: Words after which the table starts afresh; None never does.
        """
        self._limit = limit
        self._clear()

    def _clear(self) -> None:
        self._ids: dict[str, int] = {}
        self._phrases = np.zeros(1024, np.uint64)
        self._stems = np.zeros(1024, np.uint64)
        self._columns = np.zeros(1024, np.int64)
        self._characters: list[np.ndarray] = []

    def encode(self, note: str) -> np.ndarray:
        """Return the note's word ids, int32, with `BREAK` between sentences."""
        if self._limit is not None and len(self._characters) > self._limit:
            self._clear()
        ids = self._ids
        tokens = _TOKENS.findall(note.lower())
        return np.fromiter(
            (ids[token] if token in ids else self._add(token) for token in tokens), np.int32, count=len(tokens)
        )

    def _add(self, token: str) -> int:
        if not token[0].isalnum():
            self._ids[token] = BREAK
            return BREAK
        word = len(self._characters)
        self._ids[token] = word
        if word == len(self._phrases):
            self._phrases, self._stems, self._columns = (
                np.concatenate([array, np.zeros_like(array)]) for array in (self._phrases, self._stems, self._columns)
            )
        self._phrases[word] = phrase_hash(token)
        self._stems[word] = 0 if token in STOP_WORDS else title_stem(token)
        self._columns[word] = zlib.crc32(token.encode()) % COLUMNS
        self._characters.append(_character_columns(token))
        return word

    def features(self, ids: np.ndarray) -> NoteFeatures:
        """Return what the scorers read.

        Args:
            ids: What `encode` returned.
        """
        is_word = ids >= 0
        words, counts = np.unique(ids[is_word], return_counts=True)
        columns, tf = _sum_by_column(self._columns[words], counts)
        characters, character_tf = self._character_counts(words, counts)
        return NoteFeatures(
            phrases=self.phrases(ids),
            columns=np.concatenate([columns, characters]),
            counts=np.concatenate([tf, character_tf]).astype(np.float32),
            words=len(columns),
            sentences=self._sentences(ids, is_word),
        )

    def phrases(self, ids: np.ndarray) -> np.ndarray:
        """Return the words, and the pairs of words next to each other in a sentence in either order.

        Stop words are left out first, so "pain in the chest" has the pair of "chest pain".
        """
        hashes = np.where(ids >= 0, self._phrases[ids], 1)  # 1: the end of a sentence
        hashes = hashes[hashes != 0]
        left, right = hashes[:-1], hashes[1:]
        inside = (left != 1) & (right != 1)
        return np.unique(np.concatenate([hashes[hashes != 1], pair_hashes(left[inside], right[inside])]))

    def _character_counts(self, words: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not len(words):
            return np.zeros(0, np.int64), np.zeros(0, np.float64)
        columns = [self._characters[word] for word in words.tolist()]
        return _sum_by_column(np.concatenate(columns), np.repeat(counts, [len(column) for column in columns]))

    def _sentences(self, ids: np.ndarray, is_word: np.ndarray) -> list[np.ndarray]:
        stems = np.where(is_word, self._stems[ids], 0)
        telling = np.flatnonzero(stems)
        bounds = np.searchsorted(telling, np.flatnonzero(~is_word))
        return [sentence for sentence in np.split(stems[telling], np.unique(bounds)) if len(sentence)]


def place_tokens(note: str) -> list[tuple[str, int, int]]:
    """Return the note's lower-case words and ends of sentences, and where each stands in the note: start, end.

    They are those that `WordTable.encode` reads. Ends of sentences do not begin with a letter or digit.
    """
    lowered = note.lower()
    tokens = [(match.group(), match.start(), match.end()) for match in _TOKENS.finditer(lowered)]
    if len(lowered) == len(note):
        return tokens
    # "İ" alone becomes two characters.
    place = [number for number, character in enumerate(note) for _ in character.lower()]
    return [(token, place[start], place[end - 1] + 1) for token, start, end in tokens]


@lru_cache(maxsize=65_536)
def phrase_hash(word: str) -> int:
    """Return the hash of a lower-case word in phrases, 0 for a stop word."""
    return 0 if word in STOP_WORDS else _hash64(singular(word)[:_KEPT_LETTERS])


def pair_hashes(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the hashes of pairs of words, the same in either order: uint64.

    Args:
        left: Hashes of words, uint64.
        right: Those of their neighbours.
    """
    pairs = (left + right) * _MIX
    return pairs ^ (pairs >> np.uint64(29))


@lru_cache(maxsize=65_536)
def singular(word: str) -> str:
    """Return a lower-case word without a plural's ending: `biopsies` → `biopsy`; `abscess`, `virus`, `pelvis` stay."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


@lru_cache(maxsize=65_536)
def title_stem(word: str) -> int:
    """Return the hash of a lower-case word's first letters: `diabetic` meets `diabetes`."""
    return _hash64(singular(word)[:_STEM_LETTERS])


def title_stems(title: str) -> list[int]:
    """Return the stems of a code's description, each once, without words that tell nothing."""
    words = {token for token in _TOKENS.findall(title.lower()) if token[0].isalnum()} - STOP_WORDS - _GENERIC_WORDS
    return sorted({title_stem(word) for word in words})


def _hash64(word: str) -> int:
    """Return a hash that is the same in every process, and never 0 or 1."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little") | 2


def _character_columns(word: str) -> np.ndarray:
    """Return the columns of a word's 3- to 6-grams of UTF-8 bytes, its bounds marked by spaces."""
    padded = f" {word} ".encode()
    grams = (padded[start : start + size] for size in range(3, 7) for start in range(max(1, len(padded) - size + 1)))
    return np.array([zlib.crc32(gram, 1) % COLUMNS for gram in grams], np.int64)


def _sum_by_column(columns: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct columns and the sum of the counts of each."""
    distinct, place = np.unique(columns, return_inverse=True)
    return distinct, np.bincount(place, weights=counts, minlength=len(distinct))
