"""Time and peak memory of every metric with its interval, beside the same metrics by scikit-learn on dense arrays.

    python benchmarks/metrics.py --documents 2000 19802

Documents are invented: 8,000 codes with Zipf's frequencies, about 18 gold and 51 told codes a document; 19,802 are
MIMIC-IV's ICD-10 test split. Every measurement has a process of its own. scikit-learn's dense arrays hold every
(document, code) cell, so that it is measured up to `--dense` documents only. It has no bootstrap: that many samples
would take as many times as long.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse import csr_array

    from medcode_assets.evaluation.columns import CodeColumns

CODES = 8_000
TRAIN_DOCUMENTS = 89_099
GOLD = 15
TOLD = 50
THRESHOLD = 0.35


def make_columns() -> "CodeColumns":
    """Return three diagnoses to one procedure, in turn, so that both systems have frequent and rare codes."""
    from medcode_assets.evaluation.columns import CodeColumns

    letters = "ABCDEFGHIJKLMNOPQRSTVWXYZ"
    diagnoses = (f"{letter}{n // 10:02d}.{n % 10}" for n in range(1000) for letter in letters)
    procedures = (f"0{'0123456789'[n % 10]}{'BCDHJNPQRT'[n // 10 % 10]}{n // 100:02d}ZZ" for n in range(10_000))
    return CodeColumns(
        ("icd10pcs", next(procedures)) if place % 4 == 3 else ("icd10cm", next(diagnoses)) for place in range(CODES)
    )


def make_documents(documents: int) -> tuple["csr_array", "csr_array", "np.ndarray"]:
    """Return gold, scores and training frequencies; equal numbers of documents give equal ones."""
    import numpy as np
    from scipy.sparse import csr_array

    generator = np.random.default_rng(0)
    share = 1 / np.arange(1, CODES + 1)
    share /= share.sum()
    shape = (documents, CODES)

    def drawn(each: int) -> "csr_array":
        rows = np.repeat(np.arange(documents), each)
        cells = csr_array((np.ones(len(rows)), (rows, generator.choice(CODES, len(rows), p=share))), shape=shape)
        cells.data[:] = 1
        return cells

    gold = drawn(GOLD + 6)  # a code that is drawn twice counts once
    found = gold.multiply(csr_array((generator.random(gold.nnz) < 0.75, gold.indices, gold.indptr), shape=shape))
    scores = csr_array(drawn(TOLD) + 2 * found)
    scores.data = generator.beta(scores.data, 3.0)
    frequencies = generator.binomial(TRAIN_DOCUMENTS, np.minimum(1, GOLD * share))
    return csr_array(gold, dtype=np.int64), scores, frequencies


def sparse(documents: int, resamples: int) -> dict[str, float]:
    from medcode_assets.evaluation.measure import measure

    gold, scores, frequencies = make_documents(documents)
    columns = make_columns()

    def work() -> None:
        measure(gold, scores, THRESHOLD, columns, frequencies, engine="adapter", split="test", resamples=resamples)

    return taken(work)


def dense(documents: int, resamples: int) -> dict[str, float]:
    """Measure scikit-learn with what it has of the same: P, R and F1, exact matches, MAP and both AUCs."""
    import numpy as np
    from sklearn import metrics

    if resamples:
        raise ValueError("scikit-learn has no bootstrap")
    gold, scores, _ = make_documents(documents)

    def work() -> None:
        asked = np.flatnonzero(gold.sum(axis=0))
        for true, score in (
            (
                gold[:, asked].toarray(),
                scores[:, asked].toarray(),
            ),  # row by row in memory, or it takes 50 times as long
            (gold.toarray(), scores.toarray()),
        ):
            predicted = (score >= THRESHOLD).astype(int)
            for average in ("micro", "macro"):
                metrics.precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
            metrics.accuracy_score(true, predicted)
            metrics.average_precision_score(true, score, average="samples")
            metrics.roc_auc_score(true, score, average="micro")
        metrics.roc_auc_score(gold[:, asked].toarray(), scores[:, asked].toarray(), average="macro")

    return taken(work)


def taken(work: Callable[[], None]) -> dict[str, float]:
    """Return seconds on the clock, those of all cores together, which other processes disturb less, and peak memory."""
    wall, cores = time.perf_counter(), time.process_time()
    work()
    seconds, cores = time.perf_counter() - wall, time.process_time() - cores
    return {"seconds": seconds, "cores": cores, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def alone(task: Callable[[int, int], dict[str, float]], documents: int, resamples: int) -> dict[str, float]:
    """Run one measurement in a fresh process: peak memory is a process's own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(task, documents, resamples).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[2_000, 19_802])
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--dense", type=int, default=2_000, help="scikit-learn up to so many documents")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores; {CODES:,} codes, {TOLD} told codes a document\n")
    print("| documents | samples | ours, s | CPU s | peak MB | scikit-learn, s | CPU s | peak MB | ratio of CPU s |")
    print("|" + "---:|" * 9)
    for documents in arguments.documents:
        theirs = alone(dense, documents, 0) if documents <= arguments.dense else None
        for resamples in (0, arguments.resamples):
            print(row(documents, resamples, alone(sparse, documents, resamples), theirs), flush=True)


def row(documents: int, resamples: int, ours: dict[str, float], theirs: dict[str, float] | None) -> str:
    """Return a row of the table; scikit-learn's seconds are extrapolated to so many samples."""

    def cells(found: dict[str, float], times: int) -> list[str]:
        return [f"{found['seconds'] * times:,.1f}", f"{found['cores'] * times:,.1f}", f"{found['megabytes']:,.0f}"]

    times = max(resamples, 1)
    beside = [*cells(theirs, times), f"{theirs['cores'] * times / ours['cores']:,.0f}"] if theirs else [""] * 4
    return f"| {' | '.join([f'{documents:,}', f'{resamples:,}', *cells(ours, 1), *beside])} |"


if __name__ == "__main__":
    main()
