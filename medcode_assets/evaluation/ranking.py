"""How well codes are ranked within a document: P@k, R@k, MAP, R-precision; and how often a whole set is right.

Told codes are ranked by score, the highest first; equal scores by column, so that order is always the same. A code
that was not told (not stored) has no rank: an engine that tells fewer than k codes loses the places that it leaves
empty.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medcode_assets.evaluation.bootstrap import Statistic

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

DEPTHS = (5, 8, 15)
"""The k of P@k and R@k (Mullenbach et al., NAACL 2018; Edin et al., SIGIR 2023)."""


def ranking_values(gold: "csr_array", scores: "csr_array") -> dict[str, "np.ndarray"]:
    """Return every document's ranking metrics.

    precision_at_k  right codes among the first k, of k.
    recall_at_k     right codes among the first k, of the gold codes.
    map             average precision: Σ precision@i · [code i is right], of the gold codes (Manning et al. 2008).
    r_precision     right codes among the first R, of R gold codes.

    A document without gold codes has precision_at_k 0 and is left out of the others, which divide by its codes.

    Args:
        gold: 0/1 matrix [documents, codes].
        scores: Told probabilities of the same shape.

    Returns:
        Float64 [documents] by name; NaN where a document is left out.
    """
    import numpy as np

    row, rank, right = _ranked(gold, scores)
    documents = gold.shape[0]
    wanted = np.asarray(gold.sum(axis=1), dtype=np.float64).ravel()
    divisor = np.where(wanted > 0, wanted, np.nan)

    def hits(weights: "np.ndarray") -> "np.ndarray":
        return np.bincount(row, weights=weights * right, minlength=documents)

    before = np.cumsum(right)  # right codes so far, over all documents
    first = np.searchsorted(row, row)  # where the code's document begins
    precision = (before - before[first] + right[first]) / (rank + 1)
    at = {depth: hits(rank < depth) for depth in DEPTHS}
    return {
        **{f"precision_at_{depth}": found / depth for depth, found in at.items()},
        **{f"recall_at_{depth}": found / divisor for depth, found in at.items()},
        "map": hits(precision) / divisor,
        "r_precision": hits(rank < wanted[row]) / divisor,
    }


def exact_matches(gold: "csr_array", predicted: "csr_array") -> "np.ndarray":
    """Return 1 where a document's predicted codes are its gold codes, and else 0: float64 [documents].

    Args:
        gold: 0/1 matrix [documents, codes].
        predicted: 0/1 matrix of the same shape.
    """
    import numpy as np

    wrong = np.asarray(abs(gold - predicted).sum(axis=1)).ravel()
    return (wrong == 0).astype(np.float64)


def document_means(values: Mapping[str, "np.ndarray"]) -> Statistic[str]:
    """Return the statistic that takes the mean of each kind of document value, without the NaNs.

    Args:
        values: [documents] by name.
    """
    import numpy as np
    from scipy.sparse import csr_array

    stacked = np.stack(list(values.values()))
    # Sparse products add up in one order, whatever the number of samples and threads; BLAS does not.
    sums, counted = csr_array(np.nan_to_num(stacked)), csr_array((~np.isnan(stacked)).astype(np.float64))

    def means(weights: "np.ndarray") -> dict[str, "np.ndarray"]:
        with np.errstate(invalid="ignore"):  # no document of a sample has a code: NaN
            found = (sums @ weights) / (counted @ weights)
        return dict(zip(values, found, strict=True))

    return means


def _ranked(gold: "csr_array", scores: "csr_array") -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """Return each told code's document, its rank there (from 0) and whether it is right, by document and rank."""
    import numpy as np

    told = scores.tocoo()
    order = np.lexsort((told.col, -told.data, told.row))
    row, column = told.row[order], told.col[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    if not len(row):  # an empty choice of a sparse matrix has no shape of its own
        return row, rank, np.zeros(0)
    return row, rank, np.asarray(gold[row, column], dtype=np.float64).ravel()
