"""Precision, recall and F1 of predicted codes, each under the label space that it was counted in.

Gold and predicted codes are sparse 0/1 matrices [documents, codes] over the same columns. tp, fp and fn are
counted per code; C is the set of codes that a number is taken over (shared/field/coding.md; Edin et al.,
SIGIR 2023):

closed  C = codes with a positive in the evaluated split; predictions of other codes are discarded, which
flatters. open    C = every code known or predicted: all columns.

    micro F1 = Σtp / (Σtp + ½(Σfp + Σfn)),  macro F1 = mean over C of tp / (tp + ½(fp + fn))

Macro F1 is the mean of the codes' F1s and not the harmonic mean of macro precision and recall. 0/0 is 0: a
code that nobody predicted has precision 0, and an open code that is neither asked for nor predicted has F1 0.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from medcode_serving.bundle import Metric
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

LabelSpace = Literal["closed", "open"]


@dataclass(frozen=True)
class CodeCounts:
    """True positives, false positives and false negatives of each code: three int64 arrays [codes]."""

    tp: "np.ndarray"
    fp: "np.ndarray"
    fn: "np.ndarray"


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


def code_counts(gold: "csr_array", predicted: "csr_array") -> CodeCounts:
    """Count tp, fp and fn of every column.

    Raises:
        ValueError: the matrices have different shapes, or values other than 0 and 1.
    """
    import numpy as np

    if gold.shape != predicted.shape:
        raise ValueError(f"gold is {gold.shape}, predicted is {predicted.shape}")
    for matrix in (gold, predicted):
        if not np.isin(matrix.data, (0, 1)).all():
            raise ValueError("gold and predicted must hold 0 and 1 only; apply a threshold first")
    tp = np.asarray(gold.multiply(predicted).sum(axis=0), dtype=np.int64).ravel()
    predictions = np.asarray(predicted.sum(axis=0), dtype=np.int64).ravel()
    positives = np.asarray(gold.sum(axis=0), dtype=np.int64).ravel()
    return CodeCounts(tp=tp, fp=predictions - tp, fn=positives - tp)


def in_label_space(counts: CodeCounts, label_space: LabelSpace) -> CodeCounts:
    """Return the counts of the codes that a label space takes numbers over."""
    if label_space == "open":
        return counts
    kept = counts.tp + counts.fn > 0
    return CodeCounts(tp=counts.tp[kept], fp=counts.fp[kept], fn=counts.fn[kept])


def precision_recall_f1(counts: CodeCounts) -> dict[str, float]:
    """Return micro and macro precision, recall and F1 over the codes of `counts`, each in [0, 1]."""
    tp, fp, fn = counts.tp, counts.fp, counts.fn
    return {
        "micro_precision": _mean_ratio(tp.sum(keepdims=True), (tp + fp).sum(keepdims=True)),
        "micro_recall": _mean_ratio(tp.sum(keepdims=True), (tp + fn).sum(keepdims=True)),
        "micro_f1": _mean_ratio(2 * tp.sum(keepdims=True), (2 * tp + fp + fn).sum(keepdims=True)),
        "macro_precision": _mean_ratio(tp, tp + fp),
        "macro_recall": _mean_ratio(tp, tp + fn),
        "macro_f1": _mean_ratio(2 * tp, 2 * tp + fp + fn),
    }


def measure(gold: "csr_array", predicted: "csr_array", *, engine: str, split: str) -> tuple[Metric, ...]:
    """Return every metric in every label space, ready for a bundle.

    Args:
        gold: 0/1 matrix [documents, codes].
        predicted: 0/1 matrix of the same shape, the threshold already applied.
        engine: What predicted: adapter, base_model, frequency_prior.
        split: train, validation or test.

    Raises:
        MedcodeError: no document of the split has a code.
    """
    counts = code_counts(gold, predicted)
    if not (counts.tp + counts.fn).any():
        raise MedcodeError(
            f"the {split} split has {gold.shape[0]} documents and none has a code; check the cohort: medcode prepare"
        )
    return tuple(
        Metric(name=name, value=value, engine=engine, split=split, label_space=space)
        for space in get_args(LabelSpace)
        for name, value in precision_recall_f1(in_label_space(counts, space)).items()
    )


def _mean_ratio(numerator: "np.ndarray", denominator: "np.ndarray") -> float:
    """Return the mean of the element-wise ratios, 0/0 being 0."""
    import numpy as np

    ratios = np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
    return float(ratios.mean()) if len(ratios) else 0.0
