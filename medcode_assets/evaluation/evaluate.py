"""Several engines on the same validation and test split, each with a threshold of its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medcode_assets.evaluation.columns import Code, CodeColumns
from medcode_assets.evaluation.metrics import measure
from medcode_assets.evaluation.predictions import (
    gold_matrix,
    predict_documents,
    predicted_codes,
    score_matrix,
    write_predictions,
)
from medcode_assets.evaluation.report import EngineEvaluation, EvaluationReport
from medcode_assets.evaluation.threshold import apply_threshold, choose_threshold, refuse_impossible
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.engines.protocol import Engine
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class LabelledNotes:
    """The documents of one split: three lists of one length."""

    split: str
    """validation or test"""
    ids: Sequence[int]
    """hadm_id, all different."""
    notes: Sequence[str]
    gold: Sequence[Sequence[Code]]
    """Each document's true (system, code) pairs, those outside the vocabulary too."""

    def __len__(self) -> int:
        return len(self.ids)


def evaluate_engines(
    engines: Mapping[str, Engine],
    validation: LabelledNotes,
    test: LabelledNotes,
    vocabulary: Vocabulary,
    *,
    predictions: Path | None = None,
    on_progress: Callable[[str, int], None] | None = None,
) -> EvaluationReport:
    """Predict validation, choose the threshold there, predict test, and measure test with that threshold.

    Args:
        engines: By the name that metrics carry: adapter, base_model, frequency_prior.
        validation: Where thresholds are chosen.
        test: What is measured.
        vocabulary: The codes that were trained.
        predictions: Folder for `<engine>-<split>.parquet`; None keeps no predictions.
        on_progress: Told (engine, how many more notes are done); each engine reads both splits.

    Raises:
        MedcodeError: a split is empty or has no codes, or an engine cannot answer or answers with NaN.
    """
    for split in (validation, test):
        if not len(split):
            raise MedcodeError(f"the {split.split} split has no documents; prepare more patients: medcode prepare")
    known = CodeColumns.of(vocabulary).with_codes(
        code for split in (validation, test) for codes in split.gold for code in codes
    )
    asked = {code for codes in test.gold for code in codes}
    evaluations = []
    for name, engine in engines.items():
        tables, seconds = {}, 0.0
        for split in (validation, test):
            started = time.monotonic()
            tables[split.split] = _predict(name, engine, split, on_progress)
            seconds = time.monotonic() - started
            if predictions is not None:
                write_predictions(tables[split.split], predictions / f"{name}-{split.split}.parquet")
        evaluations.append(_evaluate(name, validation, test, tables, known, seconds))
    return EvaluationReport(
        documents=len(test),
        validation_documents=len(validation),
        codes=len(asked),
        unseen_codes=len(asked - set(CodeColumns.of(vocabulary).codes)),
        mean_gold_codes=sum(len(set(codes)) for codes in test.gold) / len(test),
        engines=tuple(evaluations),
    )


def _predict(
    name: str, engine: Engine, split: LabelledNotes, on_progress: Callable[[str, int], None] | None
) -> "pa.Table":
    def told(more: int) -> None:
        if on_progress is not None:
            on_progress(name, more)

    return predict_documents(engine, split.ids, split.notes, on_progress=told)


def _evaluate(
    name: str,
    validation: LabelledNotes,
    test: LabelledNotes,
    tables: Mapping[str, "pa.Table"],
    known: CodeColumns,
    seconds: float,
) -> EngineEvaluation:
    columns = known.with_codes(code for table in tables.values() for code in predicted_codes(table))
    validation_scores = score_matrix(tables[validation.split], validation.ids, columns)
    validation_gold = gold_matrix(validation.gold, columns)
    threshold = choose_threshold(validation_scores, validation_gold)
    scores = score_matrix(tables[test.split], test.ids, columns)
    refuse_impossible(scores)
    predicted = apply_threshold(scores, threshold)
    return EngineEvaluation(
        engine=name,
        threshold=threshold,
        metrics=measure(gold_matrix(test.gold, columns), predicted, engine=name, split=test.split),
        validation_metrics=measure(
            validation_gold,
            apply_threshold(validation_scores, threshold),
            engine=name,
            split=validation.split,
        ),
        mean_predicted_codes=predicted.nnz / len(test),
        distinct_answers=_distinct_rows(predicted),
        documents_without_codes=int((predicted.sum(axis=1) == 0).sum()),
        seconds=round(seconds, 3),
        **_document_totals(tables[test.split]),
    )


def _distinct_rows(predicted: "csr_array") -> int:
    """Count the different rows of a 0/1 matrix."""
    ends = predicted.indptr
    return len({predicted.indices[a:b].tobytes() for a, b in zip(ends[:-1], ends[1:], strict=True)})


def _document_totals(table: "pa.Table") -> dict[str, int]:
    """Return how many documents were cut and how many fragments were no codes, once a document."""
    documents = table.group_by("hadm_id").aggregate([("truncated", "max"), ("dropped", "max")])
    cut, dropped = documents["truncated_max"].to_pylist(), documents["dropped_max"].to_pylist()
    return {"truncated": sum(cut), "dropped": sum(dropped)}
