"""Probabilities that mean what they say: fitted on validation, checked on test.

Of all codes told with probability 0.7, seven in ten should be right (Guo et al., ICML 2017). Only told codes count:
what an engine does not name has no probability.
"""

from typing import TYPE_CHECKING, Literal

from medcode_assets.evaluation.predictions import told_pairs
from medcode_assets.evaluation.report import ReliabilityBin
from medcode_serving.calibration import LEAST, Calibration

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

Method = Literal["auto", "temperature", "isotonic", "none"]

ENOUGH_FOR_ISOTONIC = 1000
"""Right and wrong codes each; with fewer, isotonic regression fits the noise (Niculescu-Mizil & Caruana, ICML 2005)."""

BINS = 15
"""Of equal width, as in Guo et al."""

LEAST_SLOPE = 1e-3
"""So that no two probabilities become one: ranking and threshold live on their order."""


def fit_calibration(scores: "csr_array", gold: "csr_array", method: Method) -> Calibration:
    """Fit the map from told to calibrated probabilities.

    Args:
        scores: Probabilities as told [documents, codes], of the validation split.
        gold: 0/1 matrix of the same shape.
        method: `temperature` scales and shifts the log odds (two numbers: Platt 1999 on log odds), `isotonic` is a
            rising step curve with straight lines between the middles of its steps; `auto` takes isotonic where
            there are enough codes for it.

    Returns:
        The identity if nothing was told.
    """
    told, right = told_pairs(scores, gold)
    if method == "none" or not len(told):
        return Calibration()
    enough = min(int(right.sum()), int((~right).sum())) >= ENOUGH_FOR_ISOTONIC
    if method == "isotonic" or (method == "auto" and enough):
        return _isotonic(told, right)
    return _temperature(told, right)


def calibrated(scores: "csr_array", calibration: Calibration) -> "csr_array":
    """Return the matrix with its stored probabilities calibrated."""
    from scipy.sparse import csr_array

    return csr_array((calibration.apply(scores.data), scores.indices, scores.indptr), shape=scores.shape)


def reliability(scores: "csr_array", gold: "csr_array") -> tuple[ReliabilityBin, ...]:
    """Return mean probability and share of right codes in each of `BINS` bins that holds a told code."""
    import numpy as np

    told, right = told_pairs(scores, gold)
    places = np.minimum((told * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    sums = np.bincount(places, weights=told, minlength=BINS)
    hits = np.bincount(places, weights=right, minlength=BINS)
    return tuple(
        ReliabilityBin(
            low=place / BINS,
            high=(place + 1) / BINS,
            codes=int(counts[place]),
            probability=float(sums[place] / counts[place]),
            right=float(hits[place] / counts[place]),
        )
        for place in np.flatnonzero(counts)
    )


def expected_calibration_error(bins: tuple[ReliabilityBin, ...]) -> float:
    """Return the mean distance of probability and share of right codes over all told codes; 0 if none was told."""
    codes = sum(bin_.codes for bin_ in bins)
    return sum(bin_.codes * abs(bin_.probability - bin_.right) for bin_ in bins) / codes if codes else 0.0


def _temperature(told: "np.ndarray", right: "np.ndarray") -> Calibration:
    """Fit slope and shift of the log odds by maximum likelihood.

    Targets are Platt's: a little inside 0 and 1, so that the fit stays finite where all are right or all wrong.
    """
    import numpy as np
    from scipy.optimize import minimize

    inside = told.clip(LEAST, 1 - LEAST)
    log_odds = np.log(inside / (1 - inside))
    positives = int(right.sum())
    targets = np.where(right, (positives + 1) / (positives + 2), 1 / (len(right) - positives + 2))

    def loss(parameters: "np.ndarray") -> tuple[float, "np.ndarray"]:
        z = parameters[0] * log_odds + parameters[1]
        error = 1 / (1 + np.exp(-z.clip(-700, 700))) - targets
        value = np.logaddexp(0, z) - targets * z
        return float(value.mean()), np.array([(error * log_odds).mean(), error.mean()])

    found = minimize(loss, x0=[1.0, 0.0], jac=True, bounds=[(LEAST_SLOPE, None), (None, None)], method="L-BFGS-B")
    return Calibration(method="temperature", slope=float(found.x[0]), shift=float(found.x[1]))


def _isotonic(told: "np.ndarray", right: "np.ndarray") -> Calibration:
    """Fit by pool-adjacent-violators, then join the middles of the steps.

    A step's probabilities would all become one, and their order be lost for ranking (centred isotonic regression:
    Oron & Flournoy 2017). The ends rise by a hair for the same reason.
    """
    import numpy as np
    from sklearn.isotonic import IsotonicRegression

    steps = IsotonicRegression(y_min=0, y_max=1).fit_transform(told, right.astype(np.float64))
    values, place = np.unique(steps, return_inverse=True)
    middles = np.bincount(place, weights=told) / np.bincount(place)
    hair = 1e-6
    values = values.clip(hair, 1 - hair)
    left = [(0.0, values[0] * (1 - hair))] if middles[0] > 0 else []
    end = [(1.0, values[-1] + hair * (1 - values[-1]))] if middles[-1] < 1 else []
    points = [*left, *zip(middles, values, strict=True), *end]
    return Calibration(
        method="isotonic",
        told=tuple(float(x) for x, _ in points),
        right=tuple(float(y) for _, y in points),
    )
