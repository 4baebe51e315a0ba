"""Narratives that are the same, or nearly: exact duplicates by their normalised text, near ones by MinHash.

Near duplicates share a given part of their five-word shingles (Jaccard), as 128 random permutations estimate it: the
estimate's standard error at 0.8 is 0.035. Candidates come from bands of the signatures (LSH), each is then verified.
"""

import re
import unicodedata
import zlib
from array import array
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE_WORDS = 5
PERMUTATIONS = 128
SEED = 8
LEAST_RECALL = 0.99
"""Probability that bands find a pair that is just similar enough."""

_WORD = re.compile(r"\w+")
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
"""Characters that nobody sees: of no width, and marks of direction."""


def normalised(text: str) -> str:
    """Return a text as exact duplicates are compared: NFKC without unseen characters, case-folded, one blank each.

    NFKC: a digit of full width is that digit.
    """
    plain = text if text.isascii() else _UNSEEN.sub("", unicodedata.normalize("NFKC", text))
    folded = plain.casefold()
    return " ".join((folded if folded.isascii() else unicodedata.normalize("NFKC", folded)).split())


def shingles(text: str) -> set[str]:
    """Return a text's runs of five words, without punctuation and case; a shorter text is one shingle."""
    plain = normalised(text)
    words = _WORD.findall(plain)
    if len(words) < SHINGLE_WORDS:
        return {" ".join(words) or plain}
    # Cut out of one text, which takes a third of the time of joining words anew for each.
    joined = " ".join(words)
    ends = list(accumulate(len(word) + 1 for word in words))
    return {joined[start : end - 1] for start, end in zip([0, *ends], ends[SHINGLE_WORDS - 1 :], strict=False)}


def signature(text: str) -> "MinHash":
    """Return the MinHash of a text's shingles: 128 numbers, the same on every machine and in every run."""
    made = _empty_signature().copy()
    made.update_batch([shingle.encode() for shingle in shingles(text)])
    return made


class NearDuplicates:
    """Finds among the texts added so far those that are at least `threshold` similar to a new one.

    About 1.5 kB a text at a threshold of 0.8, whatever its length.
    """

    def __init__(self, threshold: float) -> None:
        self._equal = threshold * PERMUTATIONS
        self._bands, self._rows = bands_for(threshold)
        self._signatures: NDArray[np.uint32] = np.empty((256, PERMUTATIONS), dtype=np.uint32)
        self._keys = array("q")
        # A band's texts are chained, the latest first: a set for each would take ten times the memory.
        self._latest: list[dict[int, int]] = [{} for _ in range(self._bands)]
        self._before = [array("q") for _ in range(self._bands)]

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: int, text: str) -> list[int]:
        """Return the keys, in the order of adding, of the earlier texts that are similar enough; then add this one."""
        values = signature(text).hashvalues
        place = len(self._keys)
        candidates = np.fromiter(sorted(self._chain(place, values)), dtype=np.int64)
        equal = np.count_nonzero(self._signatures[candidates] == values, axis=1)
        if place == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[place] = values
        self._keys.append(key)
        return [self._keys[found] for found in candidates[equal >= self._equal]]

    def _chain(self, place: int, values: NDArray[np.uint32]) -> set[int]:
        """Return the places of the texts that share a band with this one, and put it at the head of its bands."""
        shared: set[int] = set()
        written = values.tobytes()
        width = self._rows * values.itemsize
        for band in range(self._bands):
            bucket = hash(written[band * width : (band + 1) * width])
            latest, before = self._latest[band], self._before[band]
            earlier = latest.get(bucket, -1)
            latest[bucket] = place
            before.append(earlier)
            while earlier >= 0:
                shared.add(earlier)
                earlier = before[earlier]
        return shared


@cache
def bands_for(threshold: float) -> tuple[int, int]:
    """Return the number of bands and the rows in each: the longest bands that find enough of the pairs at a threshold.

    Pairs below the threshold that share a band cost time only: they are verified.
    """
    for rows in range(PERMUTATIONS, 0, -1):
        for bands in range(1, PERMUTATIONS // rows + 1):
            if 1 - (1 - threshold**rows) ** bands >= LEAST_RECALL:
                return bands, rows
    return PERMUTATIONS, 1


@cache
def _empty_signature() -> "MinHash":
    from datasketch import MinHash

    # CRC-32 is a quarter of SHA-1's time, and datasketch mixes its bits before it permutes them.
    return MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=zlib.crc32)
