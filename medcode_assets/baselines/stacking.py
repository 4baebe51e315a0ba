"""The logistic regression over the scorers' features: fitted on notes that the scorers have not seen."""

from typing import TYPE_CHECKING

import numpy as np

from medcode_assets.baselines.corpus import Corpus
from medcode_assets.baselines.scorers import fit_scorers
from medcode_serving.linear.model import FEATURES, Scorers, logistic
from medcode_serving.linear.titles import Titles

if TYPE_CHECKING:
    from medcode_assets.baselines.linear import LinearSettings, OnProgress

_SEED = 20
_STEPS = 50
_CONVERGED = 1e-8


def fit_stack(
    corpus: Corpus, titles: Titles, codes: int, settings: "LinearSettings", on_progress: "OnProgress"
) -> tuple[Scorers, np.ndarray, float]:
    """Fit scorers, and weigh them on notes held out from them (Wolpert, "Stacked generalization", 1992).

    Few notes are held out fold by fold, and then the scorers are fitted once more on all. Of many notes a tenth or less
    is held out for good, which costs little of the data and no second fit.

    Returns:
        The scorers, the weights of their features [features] and the intercept.
    """
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(len(corpus))
    if len(corpus) >= settings.folded_notes:
        count = min(len(corpus) // 10, settings.stacking_notes)
        held_out, rest = np.sort(order[:count]), np.sort(order[count:])
        scorers = fit_scorers(corpus, rest, titles, codes, settings)
        on_progress("scorers", 0.8)
        return scorers, *fit_logistic(*_examples(corpus, scorers, held_out))
    folds = min(settings.folds, len(corpus))
    examples = []
    for fold in range(folds):
        held_out, rest = np.sort(order[fold::folds]), np.sort(order[np.arange(len(order)) % folds != fold])
        scorers = fit_scorers(corpus, rest, titles, codes, settings)
        examples.append(_examples(corpus, scorers, held_out))
        on_progress("scorers of a fold", 0.1 + 0.7 * (fold + 1) / folds)
    weights, intercept = fit_logistic(*map(np.concatenate, zip(*examples, strict=True)))
    return fit_scorers(corpus, np.arange(len(corpus)), titles, codes, settings), weights, intercept


def _examples(corpus: Corpus, scorers: Scorers, notes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features [candidates of all notes, features] and whether the note has the code."""
    rows, answers = [np.zeros((0, len(FEATURES)))], [np.zeros(0, bool)]
    for note in notes.tolist():
        codes, features = scorers.candidates(corpus.features(note))
        rows.append(features)
        answers.append(np.isin(codes, corpus.codes(note)))
    return np.concatenate(rows), np.concatenate(answers)


def fit_logistic(features: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, float]:
    """Fit a logistic regression by Newton's method.

    The penalty is half the squared length of the weights of standardised features, so that a feature that never varies
    weighs 0.

    Args:
        features: [examples, features].
        answers: 0 or 1 of each example.

    Returns:
        Weights of the features as given, float64 [features], and the intercept.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 1e-9, deviation, 1)
    x = np.column_stack([(features - mean) / deviation, np.ones(len(features))])
    penalty = np.append(np.ones(features.shape[1]), 1e-6)
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        probabilities = logistic(x @ weights)
        gradient = x.T @ (probabilities - answers) + penalty * weights
        curvature = (x * (probabilities * (1 - probabilities))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < _CONVERGED:
            break
    return weights[:-1] / deviation, float(weights[-1] - (weights[:-1] * mean / deviation).sum())
