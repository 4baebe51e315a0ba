"""What a GGUF file's answers lose against the merged model's: micro F1 on the same validation notes."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from medcode_assets.evaluation.calibrate import calibrated
from medcode_assets.evaluation.columns import Code, CodeColumns
from medcode_assets.evaluation.measure import differences
from medcode_assets.evaluation.metrics import code_counts, precision_recall_f1
from medcode_assets.evaluation.predictions import gold_matrix, predict_documents, predicted_codes, score_matrix
from medcode_assets.evaluation.threshold import apply_threshold
from medcode_assets.export.report import F1Comparison
from medcode_serving.bundle import Decision
from medcode_serving.engines.protocol import Engine

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def compare_f1(
    reference: Engine,
    engine: Engine,
    notes: Sequence[str],
    gold: Sequence[Collection[Code]],
    decision: Decision,
    *,
    on_progress: Callable[[int], None] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> F1Comparison:
    """Let two engines answer the same notes and compare their micro F1, in the open label space.

    Calibration, threshold and bootstrap are those of the evaluation (`medcode_assets.evaluation`).

    Args:
        reference: The merged model.
        engine: The file.
        notes: Raw text; reaches no report.
        gold: Each note's true (system, code) pairs.
        decision: How the probabilities of either become codes: the bundle's, because the file is served with it.
        on_progress: Told how many more answers there are, of either engine.
        resamples: Bootstrap samples behind the interval, at least 1.
        seed: Of the samples.

    Raises:
        MedcodeError: there are no notes or none has a code, or an engine cannot answer.
    """
    import numpy as np

    ids = range(len(notes))
    tables = [predict_documents(one, ids, notes, on_progress=on_progress) for one in (reference, engine)]
    columns = CodeColumns(()).with_codes(
        (*(code for codes in gold for code in codes), *(code for table in tables for code in predicted_codes(table)))
    )
    asked = gold_matrix(gold, columns)
    scores = [calibrated(score_matrix(table, ids, columns), decision.calibration) for table in tables]
    merged, file = (apply_threshold(found, decision.threshold) for found in scores)
    rows = differences(
        asked,
        (scores[0], decision.threshold),
        (scores[1], decision.threshold),
        columns,
        np.zeros(len(columns), dtype=np.int64),  # no training frequencies: micro F1 takes none
        names=("merged", "file"),
        resamples=resamples,
        seed=seed,
    )
    loss = next(row for row in rows if (row.name, row.label_space) == ("micro_f1", "open"))
    return F1Comparison(
        notes=len(notes),
        merged=_micro_f1(asked, merged),
        file=_micro_f1(asked, file),
        low=loss.low,
        high=loss.high,
        equal_answers=int(((merged != file).sum(axis=1) == 0).sum()),
    )


def _micro_f1(gold: "csr_array", predicted: "csr_array") -> float:
    return precision_recall_f1(code_counts(gold, predicted), "open")["micro_f1"]
