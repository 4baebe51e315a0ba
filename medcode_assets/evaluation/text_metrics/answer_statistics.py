"""Metrics over answers with their intervals, from each answer's sufficient statistics.

A metric is a function of sums over answers: a mean of one column, or corpus BLEU of n-gram counts. A bootstrap
sample of the answers is therefore a weighted sum of rows, and no text is scored twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medcode_assets.evaluation.bootstrap import estimate, interval, resample
from medcode_assets.evaluation.text_metrics.report import TextMetric

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 1_000
SEED = 0
"""Fixed: all metrics of a set of answers are resampled by the same draws, and a second run gives the same ends."""


@dataclass(frozen=True)
class AnswerStatistics:
    """What some metrics are computed from."""

    rows: "np.ndarray"
    """float64 [answers, columns]; only sums over answers are used."""
    metrics: "Mapping[str, Callable[[np.ndarray], np.ndarray]]"
    """Each metric as a function of the columns' sums over samples of the answers: [columns, samples] to [samples]."""
    how: str


def mean_statistics(rows: "np.ndarray", names: tuple[str, ...], how: str) -> AnswerStatistics:
    """Return statistics whose metrics are the columns' means.

    Args:
        rows: Scores [answers, metrics].
        names: The columns' metrics.
        how: Library and settings.
    """

    def mean_of(column: int) -> "Callable[[np.ndarray], np.ndarray]":
        return lambda sums: sums[column] / len(rows)

    return AnswerStatistics(rows, {name: mean_of(column) for column, name in enumerate(names)}, how)


def with_intervals(statistics: AnswerStatistics) -> tuple[TextMetric, ...]:
    """Return each metric with its 95 % interval (`medcode_assets.evaluation.bootstrap`), cut at what it can be.

    No text metric is above 1. None is below 0 either, except a mean of cosines that has been.
    """

    def of_samples(weights: "np.ndarray") -> "dict[str, np.ndarray]":
        sums = statistics.rows.T @ weights
        return {name: metric(sums) for name, metric in statistics.metrics.items()}

    values = estimate(of_samples, len(statistics.rows))
    resampled = resample(of_samples, len(statistics.rows), resamples=RESAMPLES, seed=SEED)
    measured = []
    for name, value in values.items():
        low, high = interval(value, resampled[name])
        least = min(0.0, float(resampled[name].min()))
        measured.append(
            TextMetric(name=name, value=value, low=max(low, least), high=min(high, 1.0), how=statistics.how)
        )
    return tuple(measured)
