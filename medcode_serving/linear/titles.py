"""How much of a code's title stands in one sentence of the note: it reaches codes that no training note has."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medcode_serving.linear.phrases import find_sorted, ranges

_LEAST_COVERAGE = 0.5
"""Of a title's weight, anywhere in the note; less is no match."""
_MATCHES = 1000
"""Titles whose sentences are looked at."""
_SENTENCES_AT_ONCE = 256


@dataclass(frozen=True)
class TitleMatches:
    """The titles that a note has half of or more, of all codes."""

    codes: np.ndarray
    """int64, ascending."""
    matched: np.ndarray
    """Weight of the title's stems in its best sentence, float32."""
    coverage: np.ndarray
    """The same as a share of the title's whole weight, float32 in [0, 1]."""


@dataclass(frozen=True)
class Titles:
    """Stems of the codes' titles, as a sparse matrix in rows of codes."""

    stems: np.ndarray
    """Hashes of the distinct stems, uint64, ascending."""
    weights: np.ndarray
    """A stem's weight, float32 [stems]: the smaller of its idf in notes and in titles."""
    starts: np.ndarray
    """Row bounds, int64 [codes + 1]."""
    places: np.ndarray
    """Places in `stems`, int32 [pairs]."""

    @cached_property
    def _codes(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def _inverted(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes by stem, and row bounds [stems + 1]."""
        order = np.argsort(self.places, kind="stable")
        sizes = np.bincount(self.places, minlength=len(self.stems))
        return self._codes[order], np.concatenate([[0], np.cumsum(sizes)])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Stems of each title, float32 [codes]."""
        return np.diff(self.starts).astype(np.float32)

    @cached_property
    def totals(self) -> np.ndarray:
        """Weight of each title, float32 [codes]."""
        weights = self.weights[self.places]
        return np.bincount(self._codes, weights=weights, minlength=len(self.lengths)).astype(np.float32)

    def matches(self, sentences: list[np.ndarray]) -> TitleMatches:
        """Return the titles that stand in the note.

        Args:
            sentences: Stems of each sentence, uint64.
        """
        by_sentence = [find_sorted(self.stems, sentence) for sentence in sentences]
        present = np.unique(np.concatenate(by_sentence)) if by_sentence else np.zeros(0, np.int64)
        if not len(present):
            return TitleMatches(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32))
        codes = self._somewhere(present)
        matched = self._best_sentence(codes, present, by_sentence)
        return TitleMatches(codes, matched, matched / self.totals[codes])

    def _somewhere(self, present: np.ndarray) -> np.ndarray:
        """Return the codes of which enough stands anywhere in the note."""
        codes, starts = self._inverted
        sizes = starts[present + 1] - starts[present]
        hit = codes[ranges(starts[present], sizes)]
        matched = np.bincount(hit, weights=np.repeat(self.weights[present], sizes), minlength=len(self.totals))
        coverage = matched / np.maximum(self.totals, 1e-9)
        found = np.flatnonzero((coverage >= _LEAST_COVERAGE) & (self.totals > 0))
        if len(found) > _MATCHES:
            found = np.sort(found[np.argsort(-(matched * coverage)[found], kind="stable")[:_MATCHES]])
        return found

    def _best_sentence(self, codes: np.ndarray, present: np.ndarray, by_sentence: list[np.ndarray]) -> np.ndarray:
        """Return the largest weight of each code's stems in one sentence, float32 [codes]."""
        sizes = self.starts[codes + 1] - self.starts[codes]
        places = self.places[ranges(self.starts[codes], sizes)]
        rows = np.repeat(np.arange(len(codes)), sizes)
        column = np.full(len(self.stems), -1)
        column[present] = np.arange(len(present))
        here = column[places] >= 0
        titles = np.zeros((len(codes), len(present)), np.float32)
        titles[rows[here], column[places[here]]] = self.weights[places[here]]
        best = np.zeros(len(codes), np.float32)
        for start in range(0, len(by_sentence), _SENTENCES_AT_ONCE):
            some = by_sentence[start : start + _SENTENCES_AT_ONCE]
            in_sentence = np.zeros((len(present), len(some)), np.float32)
            for number, sentence in enumerate(some):
                in_sentence[column[sentence], number] = 1
            np.maximum(best, (titles @ in_sentence).max(axis=1), out=best)
        return best
