"""Precision, recall and F1 of predicted codes, each under the label space that it was counted in.

Gold and predicted codes are sparse 0/1 matrices [documents, codes] over the same columns. tp, fp and fn are
counted per code; C is the set of codes that a number is taken over (shared/field/coding.md; Edin et al.,
SIGIR 2023):

closed  C = codes with a positive in the evaluated documents; predictions of other codes are discarded, which
        flatters.
open    C = every code known or predicted: all columns.
caml    C as open, but macro F1 is the harmonic mean of macro precision and macro recall, as in the evaluation
        of Mullenbach et al. (NAACL 2018; caml-mimic, evaluation.py).

    micro F1 = Σtp / (Σtp + ½(Σfp + Σfn)),  macro F1 = mean over C of tp / (tp + ½(fp + fn))

But in caml, macro F1 is the mean of the codes' F1s. 0/0 is 0: a code that nobody predicted has precision 0, and an
open code that is neither asked for nor predicted has F1 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

LabelSpace = Literal["closed", "open", "caml"]


@dataclass(frozen=True)
class CodeCounts:
    """True positives, false positives and false negatives of each code: three arrays [codes] or [codes, samples]."""

    tp: "np.ndarray"
    fp: "np.ndarray"
    fn: "np.ndarray"


@dataclass(frozen=True)
class CodePairs:
    """Right, predicted and gold (code, document) pairs: three 0/1 matrices [codes, documents], float64."""

    right: "csr_array"
    predicted: "csr_array"
    gold: "csr_array"

    def counts(self, weights: "np.ndarray") -> CodeCounts:
        """Count every code's pairs in weighted samples of the documents.

        Args:
            weights: How often a sample holds a document, float64 [documents, samples].

        Returns:
            float64 arrays [codes, samples]; exact, because sums of integers.
        """
        tp = self.right @ weights
        return CodeCounts(tp=tp, fp=self.predicted @ weights - tp, fn=self.gold @ weights - tp)


def indicator_matrix(index_sets: Sequence[Iterable[int]], codes: int) -> "csr_array":
    """Return the 0/1 matrix [documents, codes] of each document's code indices; a repeated index counts once.

    Raises:
        ValueError: an index is outside 0 … codes-1.
    """
    import numpy as np
    from scipy.sparse import csr_array

    rows = [sorted(set(indices)) for indices in index_sets]
    offsets = np.cumsum([0, *map(len, rows)])
    columns = np.fromiter((index for row in rows for index in row), dtype=np.int64, count=offsets[-1])
    if columns.size and (columns.min() < 0 or columns.max() >= codes):
        raise ValueError(f"a code index is outside 0 … {codes - 1}")
    return csr_array((np.ones(len(columns), dtype=np.int64), columns, offsets), shape=(len(rows), codes))


def code_pairs(gold: "csr_array", predicted: "csr_array") -> CodePairs:
    """Return the pairs of two 0/1 matrices [documents, codes], by code.

    Raises:
        ValueError: the matrices have different shapes, or values other than 0 and 1.
    """
    import numpy as np
    from scipy.sparse import csr_array

    if gold.shape != predicted.shape:
        raise ValueError(f"gold is {gold.shape}, predicted is {predicted.shape}")
    for matrix in (gold, predicted):
        if not np.isin(matrix.data, (0, 1)).all():
            raise ValueError("gold and predicted must hold 0 and 1 only; apply a threshold first")
    pairs = (gold.multiply(predicted), predicted, gold)
    return CodePairs(*(csr_array(matrix.T, dtype=np.float64) for matrix in pairs))


def code_counts(gold: "csr_array", predicted: "csr_array") -> CodeCounts:
    """Count tp, fp and fn of every column, int64 [codes]. Raises as `code_pairs` does."""
    import numpy as np

    counts = code_pairs(gold, predicted).counts(np.ones((gold.shape[0], 1)))
    return CodeCounts(*(values[:, 0].astype(np.int64) for values in (counts.tp, counts.fp, counts.fn)))


def precision_recall_f1(counts: CodeCounts, label_space: LabelSpace) -> dict[str, float]:
    """Return micro and macro precision, recall and F1 over all codes of `counts` [codes], each in [0, 1]."""
    import numpy as np
    from scipy.sparse import csr_array

    one_sample = CodeCounts(*(values[:, None] for values in (counts.tp, counts.fp, counts.fn)))
    every_code = csr_array(np.ones((1, len(counts.tp))))
    found = grouped_precision_recall_f1(one_sample, every_code, label_space)
    return {name: float(values[0, 0]) for name, values in found.items()}


def grouped_precision_recall_f1(
    counts: CodeCounts, groups: "csr_array", label_space: LabelSpace
) -> dict[str, "np.ndarray"]:
    """Return micro and macro precision, recall and F1 over groups of codes.

    The closed label space is every sample's own: the codes with a positive in it.

    Args:
        counts: Of every code, [codes, samples].
        groups: Which codes a group holds, 0/1 [groups, codes].
        label_space: What C is, within each group.

    Returns:
        Float64 [groups, samples] by name, each in [0, 1].
    """
    tp, fn = counts.tp, counts.fn
    asked = tp + fn > 0
    closed = label_space == "closed"
    fp = counts.fp * asked if closed else counts.fp
    # A code that is not asked for adds nothing but to the number of classes: its tp, and so each ratio, is 0.
    classes = groups @ asked.astype(float) if closed else groups.sum(axis=1)[:, None]
    all_tp, all_fp, all_fn = groups @ tp, groups @ fp, groups @ fn
    found = {
        "micro_precision": ratio(all_tp, all_tp + all_fp),
        "micro_recall": ratio(all_tp, all_tp + all_fn),
        "micro_f1": ratio(2 * all_tp, 2 * all_tp + all_fp + all_fn),
        "macro_precision": ratio(groups @ ratio(tp, tp + fp), classes),
        "macro_recall": ratio(groups @ ratio(tp, tp + fn), classes),
    }
    if label_space == "caml":
        precision, recall = found["macro_precision"], found["macro_recall"]
        return found | {"macro_f1": ratio(2 * precision * recall, precision + recall)}
    return found | {"macro_f1": ratio(groups @ ratio(2 * tp, 2 * tp + fp + fn), classes)}


def ratio(numerator: "np.ndarray", denominator: "np.ndarray") -> "np.ndarray":
    """Return the element-wise ratio, 0/0 being 0."""
    import numpy as np

    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.zeros(shape), where=denominator > 0)
