"""Area under the ROC curve over told codes, exact and without a dense matrix.

AUC is the share of (positive, negative) pairs that the scores put in the right order, ties counting half (Hanley &
McNeil, Radiology 1982). Codes that were not told share one score below all others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

STRETCH = 1024
"""Steps at once: half a megabyte for each of their sums over a block of samples."""

SampleValues = Callable[["np.ndarray"], "np.ndarray"]
"""From weights, float64 [documents, samples], to values, float64 [samples]; NaN: undefined in that sample."""


def macro_auc(gold: "csr_array", scores: "csr_array") -> SampleValues:
    """Return the mean AUC over the codes that have a positive and a negative document.

    A code without a positive has no AUC, so that closed and open label space are one here.

    Args:
        gold: 0/1 matrix [documents, codes].
        scores: Told probabilities of the same shape.
    """
    import numpy as np

    asked = np.flatnonzero(gold.sum(axis=0))
    gold, scores = gold[:, asked], scores[:, asked]
    return _Steps.of(gold, scores, np.arange(len(asked))).mean_areas


def micro_auc(gold: "csr_array", scores: "csr_array") -> SampleValues:
    """Return the AUC over all cells of the matrices at once.

    Args:
        gold: 0/1 matrix [documents, codes].
        scores: Told probabilities of the same shape.
    """
    import numpy as np

    return _Steps.of(gold, scores, np.zeros(gold.shape[1], dtype=np.int64)).mean_areas


@dataclass(frozen=True)
class _Stretch:
    """Steps that follow one another, few enough for their sums to stay in the processor's cache."""

    told: "csr_array"
    """Told positives, float64 [steps, documents]."""
    wrong: "csr_array"
    """Told negatives, float64 [steps, documents]."""
    wins: "np.ndarray"
    """What a positive gains by a negative of its own step: 2, or 1 where they have one score, [steps, 1]."""
    classes: "np.ndarray"
    """Classes in it, int64 [classes]."""
    members: "csr_array"
    """Their steps, float64 [classes, steps]."""


@dataclass(frozen=True)
class _Steps:
    """(document, code) cells in classes, each of which has an AUC.

    Told cells are sorted by class and score and cut into steps: negatives, and the positives right above them. Nothing
    lies between the cells of a step, so that only their weights count: as many sums as ROC curves have corners.
    """

    positives: "csr_array"
    """Gold cells, told or not, float64 [classes, documents]."""
    columns: "np.ndarray"
    """Columns of each class, which is how many cells one document has in it, [classes, 1]."""
    stretches: tuple[_Stretch, ...]

    @classmethod
    def of(cls, gold: "csr_array", scores: "csr_array", class_of: "np.ndarray") -> "_Steps":
        """Sort the cells of two matrices [documents, codes]; `class_of` says each column's class, int64 [codes]."""
        import numpy as np

        cells = scores.tocoo()
        order = np.lexsort((cells.data, class_of[cells.col]))
        document, column = cells.row[order], cells.col[order]
        right = np.asarray(gold[document, column]).ravel() > 0 if len(order) else np.zeros(0, dtype=bool)
        own = class_of[column]
        step, tied = _cut(own, cells.data[order], right)
        shape = (len(tied), gold.shape[0])
        members = _indicators(class_of, np.arange(len(class_of)), (int(class_of.max(initial=-1)) + 1, len(class_of)))
        return cls(
            positives=members @ gold.T,
            columns=members.sum(axis=1)[:, None],
            stretches=_stretches(
                _indicators(step[right], document[right], shape),
                _indicators(step[~right], document[~right], shape),
                np.where(tied, 1.0, 2.0)[:, None],
                own[np.searchsorted(step, np.arange(len(tied)))],
            ),
        )

    def mean_areas(self, weights: "np.ndarray") -> "np.ndarray":
        """Return the mean AUC of the classes that have positives and negatives in each sample; NaN if none has.

        Pairs in the right order are counted twice, so that ties count once and every sum is one of integers: exact.
        """
        import numpy as np

        positives = self.positives @ weights
        negatives = weights.sum(axis=0) * self.columns - positives
        told, wrong, won = (np.zeros_like(positives) for _ in range(3))
        below = np.zeros(weights.shape[1])  # told negatives of all steps before
        for part in self.stretches:
            right_sum, wrong_sum = part.told @ weights, part.wrong @ weights
            gained = np.cumsum(wrong_sum, axis=0)
            gained += below
            below = gained[-1].copy()
            gained -= wrong_sum
            gained *= 2
            gained += part.wins * wrong_sum
            gained *= right_sum
            for total, sums in ((told, right_sum), (wrong, wrong_sum), (won, gained)):
                total[part.classes] += part.members @ sums
        won -= 2 * (np.cumsum(wrong, axis=0) - wrong) * told  # negatives of the classes before are none of its own
        # A told positive is above every negative that was not told, with which an untold positive ties.
        won += (negatives - wrong) * (told + positives)
        pairs = positives * negatives
        areas = np.divide(won, 2 * pairs, out=np.zeros_like(won), where=pairs > 0)
        with np.errstate(invalid="ignore"):
            return areas.sum(axis=0) / (pairs > 0).sum(axis=0)


def _stretches(told: "csr_array", wrong: "csr_array", wins: "np.ndarray", own: "np.ndarray") -> tuple[_Stretch, ...]:
    """Cut steps into stretches; `own` is each step's class, rising."""
    import numpy as np

    found = []
    for start in range(0, len(own), STRETCH):
        part = slice(start, start + STRETCH)
        classes, place = np.unique(own[part], return_inverse=True)
        members = _indicators(place, np.arange(len(place)), (len(classes), len(place)))
        found.append(_Stretch(told[part], wrong[part], wins[part], classes, members))
    return tuple(found)


def _cut(own: "np.ndarray", score: "np.ndarray", right: "np.ndarray") -> tuple["np.ndarray", "np.ndarray"]:
    """Return the step of each cell, int64 [cells], and whether a step's cells are tied, bool [steps].

    Args:
        own: Class of each cell, rising.
        score: Rising within a class.
        right: Whether the cell is a positive.
    """
    import numpy as np

    if not len(own):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    new_class = np.append(True, own[1:] != own[:-1])
    starts = np.flatnonzero(new_class | np.append(True, score[1:] != score[:-1]))  # of cells with one score
    sizes = np.diff(np.append(starts, len(own)))
    positives = np.add.reduceat(right.astype(np.int64), starts)
    mixed, negative = (positives > 0) & (positives < sizes), positives == 0
    after_positive = np.append(True, ~negative[:-1])
    begins = new_class[starts] | mixed | np.append(True, mixed[:-1]) | (negative & after_positive)
    return np.repeat(np.cumsum(begins) - 1, sizes), mixed[begins]


def _indicators(rows: "np.ndarray", columns: "np.ndarray", shape: tuple[int, int]) -> "csr_array":
    import numpy as np
    from scipy.sparse import csr_array

    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
