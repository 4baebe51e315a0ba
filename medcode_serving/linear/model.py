"""From three scorers to one probability a code."""

from dataclasses import dataclass

import numpy as np

from medcode_serving.linear.phrases import BELIEFS, Phrases
from medcode_serving.linear.ridge import Ridge
from medcode_serving.linear.text import NoteFeatures
from medcode_serving.linear.titles import Titles

FEATURES = (
    "phrase_daring",
    "phrase",
    "phrase_careful",
    "ridge",
    "ridge_root",
    "title_coverage",
    "title_matched",
    "title_complete",
    "title_length",
    "phrase_and_title",
    "log_frequency",
    "untrained",
    "untrained_coverage",
    "untrained_matched",
    "untrained_complete",
    "log_phrases",
)
"""What the logistic regression weighs, in the order of its weights."""

_BY_PHRASE, _BY_RIDGE, _BY_TITLE = 100, 40, 40
"""Candidates of a note: the best by each scorer, by title once among trained codes and once among the others."""


@dataclass(frozen=True)
class LinearCode:
    """One row of codes.parquet."""

    system: str
    code: str
    description: str | None
    frequency: int
    """Training notes with the code; 0: reached by its title only."""


@dataclass(frozen=True)
class Scorers:
    """The three scorers over one list of codes, of which the first are the trained ones."""

    phrases: Phrases
    ridge: Ridge
    titles: Titles
    frequency: np.ndarray
    """Notes with each trained code that the scorers learned from, int64 [trained codes]: without the held-out ones."""

    def candidates(self, note: NoteFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Return the codes that the note may have, and what tells how likely each is.

        Returns:
            Codes [candidates], int64, ascending, and `FEATURES` [candidates, features], float64.
        """
        by_phrase, by_ridge = self.phrases.scores(note.phrases), self.ridge.scores(note)
        matches = self.titles.matches(note.sentences)
        trained = len(self.frequency)
        codes = np.union1d(
            np.union1d(_best(by_phrase[1], _BY_PHRASE), _best(by_ridge, _BY_RIDGE)),
            _best_titles(matches.codes, matches.coverage * np.sqrt(matches.matched), trained),
        ).astype(np.int64)
        known = codes < trained
        phrase = np.zeros((len(BELIEFS), len(codes)))
        phrase[:, known] = by_phrase[:, codes[known]]
        ridge, frequency = np.zeros(len(codes)), np.zeros(len(codes))
        ridge[known], frequency[known] = by_ridge[codes[known]], self.frequency[codes[known]]
        coverage, matched = np.zeros(len(codes)), np.zeros(len(codes))
        place = np.searchsorted(matches.codes, codes)
        place[place == len(matches.codes)] = 0
        if len(matches.codes):
            found = matches.codes[place] == codes
            coverage[found], matched[found] = matches.coverage[place[found]], matches.matched[place[found]]
        daring, middle, careful = _log_odds(phrase)
        complete, untrained = coverage > 0.99, frequency == 0
        return codes, np.stack(
            [
                daring,
                middle,
                careful,
                ridge,
                np.sqrt(np.clip(ridge, 0, 1)),
                coverage,
                matched,
                complete,
                self.titles.lengths[codes],
                middle * coverage,
                np.log1p(frequency),
                untrained,
                untrained * coverage,
                untrained * matched,
                untrained & complete,
                np.full(len(codes), np.log1p(len(note.phrases))),
            ],
            axis=1,
        )


@dataclass(frozen=True)
class LinearModel:
    """Scorers, the weights of their features, and the codes."""

    scorers: Scorers
    weights: np.ndarray
    """Of `FEATURES`, float64."""
    intercept: float
    codes: tuple[LinearCode, ...]

    def probabilities(self, note: NoteFeatures) -> tuple[np.ndarray, np.ndarray]:
        """Return candidate codes and their probabilities, most probable first; of equal ones the first code first."""
        codes, features = self.scorers.candidates(note)
        probabilities = logistic(features @ self.weights + self.intercept)
        order = np.argsort(-probabilities, kind="stable")
        return codes[order], probabilities[order]


def logistic(values: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-values), without overflow."""
    return np.exp(-np.logaddexp(0, -values))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the highest scores; of equal ones the first."""
    if len(scores) <= count:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > least)
    return np.concatenate([above, np.flatnonzero(scores == least)[: count - len(above)]])


def _best_titles(codes: np.ndarray, scores: np.ndarray, trained: int) -> np.ndarray:
    known = codes < trained
    return np.concatenate([codes[part][_best(scores[part], _BY_TITLE)] for part in (known, ~known)])


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return the log odds, held off infinity."""
    return np.log(probabilities + 1e-3) - np.log(1 - np.minimum(probabilities, 0.995) + 1e-3)
