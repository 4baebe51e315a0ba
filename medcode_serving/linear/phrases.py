"""The phrases that a code's training notes have and others have not.

A code is mostly assigned because of a few words somewhere in a note, so that its best phrase tells more than an average
over all. Of a phrase that n training notes have, m of them with the code, the code's probability is estimated as
(m + k · prior) / (n + k): k notes' worth of belief in the code's prior.
"""

from dataclasses import dataclass

import numpy as np

BELIEFS = (0.5, 2.0, 8.0)
"""k: from daring to careful. The logistic regression weighs them."""


@dataclass(frozen=True)
class Phrases:
    """Phrases with their codes, as a sparse matrix in rows of phrases."""

    keys: np.ndarray
    """Hashes of the phrases, uint64, ascending."""
    documents: np.ndarray
    """n: training notes with the phrase, int32 [phrases]."""
    starts: np.ndarray
    """Row bounds, int64 [phrases + 1]."""
    codes: np.ndarray
    """Trained codes, int32 [pairs]."""
    hits: np.ndarray
    """m: training notes with phrase and code, float32 [pairs]; an estimate for codes of many notes."""
    prior: np.ndarray
    """Share of training notes with the code, float32 [trained codes]."""

    def scores(self, phrases: np.ndarray) -> np.ndarray:
        """Return the probability by the best phrase of the note: float32 [beliefs, trained codes].

        Args:
            phrases: A note's phrases, uint64, ascending.
        """
        best = np.tile(self.prior, (len(BELIEFS), 1))
        rows = find_sorted(self.keys, phrases)
        if not len(rows):
            return best
        sizes = self.starts[rows + 1] - self.starts[rows]
        pairs = ranges(self.starts[rows], sizes)
        documents = np.repeat(self.documents[rows], sizes)
        codes, hits = self.codes[pairs], self.hits[pairs]
        for row, belief in zip(best, BELIEFS, strict=True):
            probabilities = (hits + np.float32(belief) * self.prior[codes]) / (documents + np.float32(belief))
            np.maximum.at(row, codes, probabilities.astype(np.float32))
        return best


def find_sorted(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the places in ascending `keys` of those `wanted` that are there."""
    if not len(keys):
        return np.zeros(0, np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return places[keys[places] == wanted]


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return start, start + 1, ... of each range, one range after the other: ([5, 9], [2, 1]) → [5, 6, 9]."""
    before = np.cumsum(sizes) - sizes
    return np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
