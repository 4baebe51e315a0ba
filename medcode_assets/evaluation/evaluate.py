"""Several engines' answers to the same notes: each with a calibration and a threshold of its own, then measured."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from medcode_assets.evaluation.calibrate import (
    Method,
    calibrated,
    expected_calibration_error,
    fit_calibration,
    reliability,
)
from medcode_assets.evaluation.columns import CodeColumns
from medcode_assets.evaluation.measure import differences, group_sizes, measure
from medcode_assets.evaluation.predictions import (
    LabelledNotes,
    engine_seconds,
    gold_matrix,
    predicted_codes,
    score_matrix,
)
from medcode_assets.evaluation.report import CodesPerNote, Difference, EngineEvaluation, EvaluationReport
from medcode_assets.evaluation.threshold import (
    apply_threshold,
    choose_threshold,
    precision_recall_curve,
    refuse_impossible,
)
from medcode_serving.bundle import Decision
from medcode_serving.codes.vocabulary import Vocabulary
from medcode_serving.errors import MedcodeError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class Answers:
    """What one engine answered to both splits (`predictions.predict_split`)."""

    validation: "pa.Table"
    test: "pa.Table"


def evaluate_answers(
    answers: Mapping[str, Answers],
    validation: LabelledNotes,
    test: LabelledNotes,
    vocabulary: Vocabulary,
    *,
    method: Method = "auto",
    resamples: int = 1000,
) -> EvaluationReport:
    """Calibrate and choose the threshold on validation, then measure test with both.

    Args:
        answers: By the name that metrics carry: adapter, linear, untuned_base, frequency_prior. The first is
            compared with each other one.
        validation: Where calibration is fitted and thresholds are chosen; their texts are not read.
        test: What is measured.
        vocabulary: The codes that were trained.
        method: How probabilities are calibrated.
        resamples: Bootstrap samples behind each interval.

    Raises:
        MedcodeError: a split is empty or has no codes, or an engine answered with NaN or to other documents.
    """
    for split in (validation, test):
        if not len(split):
            raise MedcodeError(f"the {split.split} split has no documents; prepare more patients: medcode prepare")
    trained = CodeColumns.of(vocabulary)
    known = trained.with_codes(code for split in (validation, test) for codes in split.gold for code in codes)
    asked = {code for codes in test.gold for code in codes}
    evaluated = [
        _evaluate(name, given, validation, test, known, vocabulary, method, resamples)
        for name, given in answers.items()
    ]
    report = EvaluationReport(
        documents=len(test),
        validation_documents=len(validation),
        codes=len(asked),
        unseen_codes=len(asked - set(trained.codes)),
        mean_gold_codes=sum(len(set(codes)) for codes in test.gold) / len(test),
        groups=group_sizes(gold_matrix(test.gold, known), known, frequencies(known, vocabulary)),
        resamples=resamples,
        engines=tuple(evaluated),
        differences=(),
    )
    first, *others = answers
    tested = {name: (given.test, report.engine(name).decision) for name, given in answers.items()}
    paired = [
        compare_answers(test, vocabulary, (first, *tested[first]), (name, *tested[name]), resamples) for name in others
    ]
    return report.model_copy(update={"differences": tuple(row for rows in paired for row in rows)})


def frequencies(columns: CodeColumns, vocabulary: Vocabulary) -> "np.ndarray":
    """Return the training documents of each column's code: int64 [codes], 0 where training never saw it."""
    import numpy as np

    seen = {(code.system, code.code): code.frequency for code in vocabulary.codes}
    return np.array([seen.get(code, 0) for code in columns.codes], dtype=np.int64)


def compare_answers(
    test: LabelledNotes,
    vocabulary: Vocabulary,
    first: tuple[str, "pa.Table", Decision],
    second: tuple[str, "pa.Table", Decision],
    resamples: int,
) -> tuple[Difference, ...]:
    """Return the paired differences of two engines on the same documents.

    Args:
        test: The documents with their gold codes.
        vocabulary: The codes that were trained.
        first: Name, answers, and how these become codes.
        second: The other one.
        resamples: Bootstrap samples.
    """
    asked = (code for codes in test.gold for code in codes)
    told = (code for _, table, _ in (first, second) for code in predicted_codes(table))
    columns = CodeColumns.of(vocabulary).with_codes((*asked, *told))
    scored = [
        (calibrated(score_matrix(table, test.ids, columns), decision.calibration), decision.threshold)
        for _, table, decision in (first, second)
    ]
    gold = gold_matrix(test.gold, columns)
    seen = frequencies(columns, vocabulary)
    return differences(gold, scored[0], scored[1], columns, seen, names=(first[0], second[0]), resamples=resamples)


def _evaluate(
    name: str,
    given: Answers,
    validation: LabelledNotes,
    test: LabelledNotes,
    known: CodeColumns,
    vocabulary: Vocabulary,
    method: Method,
    resamples: int,
) -> EngineEvaluation:
    told = [code for table in (given.validation, given.test) for code in predicted_codes(table)]
    columns = known.with_codes(told)
    seen = frequencies(columns, vocabulary)
    raw_validation, validation_gold = _matrices(name, given.validation, validation, columns)
    raw_test, gold = _matrices(name, given.test, test, columns)
    calibration = fit_calibration(raw_validation, validation_gold, method)
    on_validation, scores = calibrated(raw_validation, calibration), calibrated(raw_test, calibration)
    threshold = choose_threshold(on_validation, validation_gold)
    predicted = apply_threshold(scores, threshold)
    bins = reliability(scores, gold)
    return EngineEvaluation(
        engine=name,
        threshold=threshold,
        calibration=calibration,
        metrics=measure(gold, scores, threshold, columns, seen, engine=name, split=test.split, resamples=resamples),
        validation_metrics=measure(
            validation_gold, on_validation, threshold, columns, seen, engine=name, split=validation.split, resamples=0
        ),
        curve=tuple(precision_recall_curve(scores, gold)),
        reliability=bins,
        calibration_error=expected_calibration_error(bins),
        raw_calibration_error=expected_calibration_error(reliability(raw_test, gold)),
        codes_per_note=_codes_per_note(gold, predicted),
        mean_predicted_codes=predicted.nnz / len(test),
        distinct_answers=_distinct_rows(predicted),
        documents_without_codes=int((predicted.sum(axis=1) == 0).sum()),
        seconds=engine_seconds(given.test),
        **_document_totals(given.test),
    )


def _matrices(
    name: str, table: "pa.Table", split: LabelledNotes, columns: CodeColumns
) -> tuple["csr_array", "csr_array"]:
    """Return scores and gold of one split. Raises MedcodeError if its documents are not those of the answers."""
    answered = set(table["hadm_id"].unique().to_pylist())
    if answered != set(split.ids):
        raise MedcodeError(
            f"engine {name}: its answers are to other {split.split} documents than the {len(split)} that are "
            f"evaluated; materialize {name} again"
        )
    scores = score_matrix(table, split.ids, columns)
    refuse_impossible(scores)
    return scores, gold_matrix(split.gold, columns)


def _codes_per_note(gold: "csr_array", predicted: "csr_array") -> tuple[CodesPerNote, ...]:
    import numpy as np

    pairs = zip(np.diff(gold.indptr).tolist(), np.diff(predicted.indptr).tolist(), strict=True)
    return tuple(
        CodesPerNote(gold=asked, predicted=told, documents=documents)
        for (asked, told), documents in sorted(Counter(pairs).items())
    )


def _distinct_rows(predicted: "csr_array") -> int:
    """Count the different rows of a 0/1 matrix."""
    return len({predicted.indices[start:end].tobytes() for start, end in pairwise(predicted.indptr)})


def _document_totals(table: "pa.Table") -> dict[str, int]:
    """Return how many documents were cut, and how many codes and fragments that are no codes were answered."""
    documents = table.group_by("hadm_id").aggregate([("truncated", "max"), ("dropped", "max")])
    cut, dropped = documents["truncated_max"].to_pylist(), documents["dropped_max"].to_pylist()
    told = table.num_rows - table["code"].null_count
    return {"truncated": sum(cut), "told": told, "dropped": sum(dropped)}
