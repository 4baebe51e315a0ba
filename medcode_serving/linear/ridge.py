"""One-vs-rest ridge regression on a random projection of TF-IDF.

The projection is a sparse one (Kane & Nelson, "Sparser Johnson-Lindenstrauss transforms", 2014): every column goes to
four of the dimensions with a random sign. It keeps inner products of notes up to about 1/√dimensions, it follows from a
seed, so it need not be stored, and no weight belongs to a word alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medcode_serving.linear.text import COLUMNS, NoteFeatures

_SIGNS = 4
_SEED = 20
_CONSTANT = np.float32(0.45)
"""Of every note: its weight is the intercept."""


@dataclass(frozen=True)
class Ridge:
    """The scores of the trained codes: about the probability, not held to [0, 1]."""

    idf: np.ndarray
    """float32 [columns]; 0 for a column that is not used."""
    weights: np.ndarray
    """float32 [dimensions + 1, trained codes]; the last row is the intercept's."""

    def scores(self, note: NoteFeatures) -> np.ndarray:
        """Return one score a trained code, float32."""
        return projected(note, self.idf, len(self.weights) - 1) @ self.weights


def projected(note: NoteFeatures, idf: np.ndarray, dimensions: int) -> np.ndarray:
    """Return a note's projection and its constant: float32 [dimensions + 1].

    Sublinear term frequency times idf; words and character n-grams each have half of the squared length 1.
    """
    values = (1 + np.log(note.counts)) * idf[note.columns]
    for group in (values[: note.words], values[note.words :]):
        group *= np.sqrt(0.5) / max(float(np.linalg.norm(group)), 1e-12)
    places, signs = _projection(dimensions)
    weights = (signs[note.columns] * values[:, None]).ravel()
    sums = np.bincount(places[note.columns].ravel(), weights=weights, minlength=dimensions)
    return np.append(sums.astype(np.float32), _CONSTANT)


@lru_cache(maxsize=2)
def _projection(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the dimensions of every column, int32 [columns, 4], and their signs over √4, float32."""
    random = np.random.Generator(np.random.PCG64(_SEED))  # the same numbers on every machine
    places = random.integers(0, dimensions, (COLUMNS, _SIGNS), dtype=np.int32)
    signs = random.integers(0, 2, (COLUMNS, _SIGNS), dtype=np.int8)
    return places, ((signs * 2 - 1) / np.sqrt(_SIGNS)).astype(np.float32)
