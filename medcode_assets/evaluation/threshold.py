"""One global probability threshold: chosen on validation, then fixed. Never chosen on test."""

from typing import TYPE_CHECKING

from medcode_assets.evaluation.predictions import told_pairs
from medcode_assets.evaluation.report import PrecisionRecallPoint
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array


def choose_threshold(scores: "csr_array", gold: "csr_array") -> float:
    """Return the threshold with the best micro F1, over every probability that occurs.

    A code is predicted if its probability is at least the threshold, as in serving (`above_threshold`). Codes
    that the engine did not tell (not stored) are never predicted; a stored zero was told. Micro F1 is the
    open one: wrong codes count even if no validation document has them. Exact: sorted once, then cumulative
    sums; equal probabilities enter together. Of thresholds with equal F1 the highest wins, which predicts the
    fewest codes.

    Args:
        scores: Probabilities [documents, codes], float64.
        gold: 0/1 matrix of the same shape.

    Returns:
        A probability that occurs in `scores`, or 1.0 if there is none.

    Raises:
        MedcodeError: a probability is not a number in [0, 1]: the engine collapsed.
        ValueError: the shapes differ.
    """
    import numpy as np

    if scores.shape != gold.shape:
        raise ValueError(f"scores are {scores.shape}, gold is {gold.shape}")
    refuse_impossible(scores)
    if not scores.nnz:
        return 1.0
    probabilities, tp, predicted = every_threshold(scores, gold)
    # Equal fractions of integers are equal floats too, so `argmax` sees ties and takes the first: the
    # highest.
    f1 = 2 * tp / (predicted + gold.sum())
    return float(probabilities[np.argmax(f1)])


def every_threshold(scores: "csr_array", gold: "csr_array") -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """Return every different probability, highest first, and how many codes at or above it are right and predicted.

    Returns:
        float64, int64 and int64, all [different probabilities].
    """
    import numpy as np

    told, right = told_pairs(scores, gold)
    order = np.argsort(-told, kind="stable")
    probabilities, tp = told[order], np.cumsum(right[order])
    last_of_equal = np.flatnonzero(np.append(probabilities[1:] != probabilities[:-1], True)[: len(told)])
    return probabilities[last_of_equal], tp[last_of_equal], last_of_equal + 1


def precision_recall_curve(scores: "csr_array", gold: "csr_array", points: int = 200) -> list[PrecisionRecallPoint]:
    """Return micro precision and recall (open label space) at up to `points` thresholds, highest first.

    The points are evenly spread over recall, since most thresholds lie in a long tail of improbable codes; the last one
    keeps every told code.
    """
    import numpy as np

    probabilities, tp, predicted = every_threshold(scores, gold)
    if not len(tp):
        return []
    reached = np.searchsorted(tp, np.linspace(0, tp[-1], points))
    chosen = np.unique(np.append(reached, len(tp) - 1))
    positives = max(int(gold.sum()), 1)
    return [
        PrecisionRecallPoint(
            threshold=float(probabilities[place]),
            precision=float(tp[place] / predicted[place]),
            recall=float(tp[place] / positives),
        )
        for place in chosen
    ]


def apply_threshold(scores: "csr_array", threshold: float) -> "csr_array":
    """Return the 0/1 matrix [documents, codes] of the stored probabilities that are at least `threshold`."""
    import numpy as np
    from scipy.sparse import csr_array

    kept = csr_array(
        ((scores.data >= threshold).astype(np.int64), scores.indices, scores.indptr), shape=scores.shape, copy=True
    )
    kept.eliminate_zeros()
    return kept


def refuse_impossible(scores: "csr_array") -> None:
    """Raise MedcodeError if a stored probability is NaN or outside [0, 1]."""
    import numpy as np

    wrong = ~((scores.data >= 0) & (scores.data <= 1))  # NaN compares false
    if count := int(np.count_nonzero(wrong)):
        raise MedcodeError(
            f"{count} of {scores.nnz} code probabilities are not numbers in [0, 1]: the model diverged; "
            "train again with a lower learning rate"
        )
