"""Predictions, the report and the collapse check, over an engine that finds key words."""

import json
import math
from collections.abc import Callable, Sequence

import pytest

from medcode_assets.evaluation.columns import CodeColumns
from medcode_assets.evaluation.evaluate import Answers, evaluate_answers
from medcode_assets.evaluation.predictions import (
    CHUNK,
    LabelledNotes,
    engine_seconds,
    gold_matrix,
    predict_documents,
    predict_split,
    predicted_codes,
    score_matrix,
)
from medcode_assets.evaluation.report import EngineEvaluation, collapse_problems, read_report, write_report
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.engines.baseline import FrequencyPriorEngine
from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.errors import MedcodeError

HYPERTENSION, DIABETES, SURGERY = ("icd10cm", "I10"), ("icd10cm", "E11.9"), ("icd10pcs", "0DTJ4ZZ")
UNSEEN = ("icd10cm", "Z99.2")


class KeywordEngine:
    """Tells each code whose word the note has, with the word's weight."""

    name = "keywords"

    def __init__(self, weights: dict[str, tuple[tuple[str, str], float | None]]) -> None:
        self.weights = weights

    def predict(self, notes: Sequence[str], *, on_progress: Callable[[int], None] | None = None) -> list[Prediction]:
        predictions = []
        for note in notes:
            found = [ScoredCode(*code, None, weight) for word, (code, weight) in self.weights.items() if word in note]
            predictions.append(Prediction(tuple(found), truncated=len(note) > 40, dropped=note.count("?")))
            if on_progress:
                on_progress(1)
        return predictions


WEIGHTS = {
    "pressure": (HYPERTENSION, 0.9),
    "sugar": (DIABETES, 0.8),
    "appendix": (SURGERY, 0.7),
    "tired": (DIABETES, 0.3),
}


def notes(split: str, first: int, *documents: tuple[str, list]) -> LabelledNotes:
    texts, gold = zip(*documents, strict=True)
    return LabelledNotes(split, range(first, first + len(texts)), texts, gold)


@pytest.fixture
def vocabulary() -> Vocabulary:
    frequencies = {HYPERTENSION: 6, DIABETES: 3, SURGERY: 1}
    return Vocabulary([VocabularyCode(*code, code[1], None, count) for code, count in frequencies.items()])


@pytest.fixture
def validation() -> LabelledNotes:
    return notes("validation", 1, ("high pressure, tired", [HYPERTENSION]), ("sugar", [DIABETES]))


@pytest.fixture
def test() -> LabelledNotes:
    return notes(
        "test",
        11,
        ("high pressure and sugar", [HYPERTENSION, DIABETES]),
        ("appendix out, tired? and then a long story", [SURGERY]),
        ("on a machine", [UNSEEN]),
    )


def test_a_prediction_table_has_one_row_a_code_and_no_text():
    told = []
    table = predict_documents(KeywordEngine(WEIGHTS), [7, 8], ["sugar, pressure", "well?"], on_progress=told.append)
    assert table.column_names == ["hadm_id", "rank", "system", "code", "probability", "truncated", "dropped"]
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (7, 1, "icd10cm", "I10", 0.9, False, 0),
        (7, 2, "icd10cm", "E11.9", 0.8, False, 0),
        (8, None, None, None, None, False, 1),
    ]
    assert sum(told) == 2
    assert predicted_codes(table) == {HYPERTENSION, DIABETES}
    assert predict_documents(KeywordEngine(WEIGHTS), [], []).num_rows == 0


def test_scores_take_the_documents_order_the_higher_of_two_and_one_for_none(vocabulary):
    weights = WEIGHTS | {"appendix": (SURGERY, None)}
    table = predict_documents(KeywordEngine(weights), [7, 8, 9], ["tired, sugar", "fine", "appendix"])
    scores = score_matrix(table, [9, 8, 7], CodeColumns.of(vocabulary))
    assert scores.toarray().tolist() == [[0, 0, 1.0], [0, 0, 0], [0, 0.8, 0]]
    assert scores.nnz == 2
    nothing = score_matrix(table.slice(0, 0), [9, 8], CodeColumns.of(vocabulary))
    assert (nothing.shape, nothing.nnz) == ((2, 3), 0)


def test_unknown_documents_and_codes_are_noticed(vocabulary):
    table = predict_documents(KeywordEngine({"a": (UNSEEN, 0.5)}), [1], ["a"])
    with pytest.raises(ValueError, match="not among"):
        score_matrix(table, [1], CodeColumns.of(vocabulary))
    with pytest.raises(ValueError, match="not among"):
        score_matrix(table, [2], CodeColumns.of(vocabulary).with_codes([UNSEEN]))


def test_columns_keep_the_vocabularys_order_and_add_new_codes_sorted(vocabulary):
    columns = CodeColumns.of(vocabulary).with_codes([UNSEEN, HYPERTENSION, ("icd10cm", "A00.0")])
    assert columns.codes == (HYPERTENSION, DIABETES, SURGERY, ("icd10cm", "A00.0"), UNSEEN)
    assert gold_matrix([[UNSEEN, HYPERTENSION], []], columns).toarray().tolist() == [[1, 0, 0, 0, 1], [0] * 5]


def evaluate(engines, validation, test, vocabulary, **options):
    """Let engines answer and measure them, few resamples and probabilities as told."""
    answers = {
        name: Answers(*(predict_documents(engine, split.ids, split.notes) for split in (validation, test)))
        for name, engine in engines.items()
    }
    return evaluate_answers(answers, validation, test, vocabulary, **({"method": "none", "resamples": 100} | options))


def test_a_split_is_answered_in_parts_and_a_killed_run_goes_on(tmp_path):
    ids = range(2 * CHUNK + 5)
    split = LabelledNotes("test", ids, ["sugar"] * len(ids), [[DIABETES]] * len(ids))

    class KilledInTheSecondPart(KeywordEngine):
        def predict(self, notes, *, on_progress=None):
            if list(tmp_path.iterdir()):
                raise KeyboardInterrupt
            return super().predict(notes, on_progress=on_progress)

    with pytest.raises(KeyboardInterrupt):
        predict_split(KilledInTheSecondPart(WEIGHTS), split, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["test-00000000.parquet"]

    asked, told = [], []

    class Counting(KeywordEngine):
        def predict(self, notes, *, on_progress=None):
            asked.append(len(notes))
            return super().predict(notes, on_progress=on_progress)

    table = predict_split(Counting(WEIGHTS), split, tmp_path, on_progress=told.append)
    assert asked == [CHUNK, 5]
    assert sum(told) == len(ids)
    assert table["hadm_id"].to_pylist() == list(ids)
    assert engine_seconds(table) > 0


def test_the_threshold_is_validations_and_the_metrics_are_tests(vocabulary, validation, test):
    engines = {"adapter": KeywordEngine(WEIGHTS), "frequency_prior": FrequencyPriorEngine(vocabulary, 10)}
    report = evaluate(engines, validation, test, vocabulary)
    adapter = report.engine("adapter")
    assert adapter.threshold == 0.8  # without "tired", whose code is wrong on validation
    # At .8 the test documents get I10 and E11.9, nothing, nothing: tp 2, fp 0, fn 2 over four codes.
    assert adapter.metric("micro_f1", "closed") == pytest.approx(2 / 3)
    assert adapter.metric("macro_f1", "closed") == pytest.approx(2 / 4)
    assert adapter.metric("micro_recall", "open") == pytest.approx(2 / 4)
    assert adapter.measured("micro_f1", "open").low <= 2 / 3 <= adapter.measured("micro_f1", "open").high
    assert (adapter.mean_predicted_codes, adapter.documents_without_codes, adapter.distinct_answers) == (2 / 3, 2, 2)
    assert (adapter.truncated, adapter.dropped) == (1, 1)
    assert [(c.gold, c.predicted, c.documents) for c in adapter.codes_per_note] == [(1, 0, 2), (2, 2, 1)]
    # Told: .9 and .8 for the first, both right; .7 right and .3 wrong for the second. |.9-1|, |.8-1|, |.7-1|, |.3-0|.
    assert adapter.calibration_error == pytest.approx((0.1 + 0.2 + 0.3 + 0.3) / 4)
    assert (adapter.curve[0].precision, adapter.curve[0].recall) == (1.0, 1 / 4)
    assert (adapter.curve[-1].precision, adapter.curve[-1].recall) == (3 / 4, 3 / 4)
    assert (report.documents, report.codes, report.unseen_codes) == (3, 4, 1)
    assert report.mean_gold_codes == pytest.approx(4 / 3)
    assert {metric.split for metric in report.metrics} == {"test"}
    assert {metric.engine for metric in report.metrics} == {"adapter", "frequency_prior"}
    groups = {group.name: (group.codes, group.pairs) for group in report.groups}
    assert groups["system:icd10cm"] == (3, 3)
    assert groups["frequency:unseen"] == (1, 1)
    assert {(row.first, row.second) for row in report.differences} == {("adapter", "frequency_prior")}


def test_the_threshold_is_one_of_calibrated_probabilities(vocabulary, validation, test):
    found = evaluate({"a": KeywordEngine(WEIGHTS)}, validation, test, vocabulary, method="temperature").engine("a")
    assert found.calibration.method == "temperature"
    assert found.threshold == pytest.approx(float(found.calibration.apply([0.8])[0]))
    assert found.metric("micro_f1", "closed") == pytest.approx(2 / 3)  # as uncalibrated: the order is the same


def test_predictions_outside_the_vocabulary_count_as_wrong_in_the_open_space_only(vocabulary, validation, test):
    plain = evaluate({"a": KeywordEngine(WEIGHTS)}, validation, test, vocabulary).engine("a")
    inventive = KeywordEngine(WEIGHTS | {"a ": (("icd10cm", "A00.0"), 0.95)})
    more = evaluate({"a": inventive}, validation, test, vocabulary).engine("a")
    assert more.threshold == 0.8
    assert more.metric("micro_f1", "closed") == plain.metric("micro_f1", "closed")
    assert more.metric("micro_precision", "open") < plain.metric("micro_precision", "open")


def test_a_code_told_below_the_threshold_widens_no_label_space(vocabulary, validation, test):
    """Engines name hundreds of codes; macro F1 in the open space is over those known or predicted."""
    plain = evaluate({"a": KeywordEngine(WEIGHTS)}, validation, test, vocabulary).engine("a")
    hesitant = KeywordEngine(WEIGHTS | {"a ": (("icd10cm", "A00.0"), 0.05)})
    more = evaluate({"a": hesitant}, validation, test, vocabulary).engine("a")
    assert more.metric("macro_f1", "open") == plain.metric("macro_f1", "open")
    assert more.metric("macro_f1", "caml") == plain.metric("macro_f1", "caml")


def test_empty_splits_diverged_models_and_missing_answers_are_errors(vocabulary, validation, test):
    empty = LabelledNotes("test", [], [], [])
    with pytest.raises(MedcodeError, match="test split has no documents"):
        evaluate({"a": KeywordEngine(WEIGHTS)}, validation, empty, vocabulary)
    diverged = KeywordEngine({"sugar": (DIABETES, math.nan)})
    with pytest.raises(MedcodeError, match="diverged"):
        evaluate({"a": diverged}, validation, test, vocabulary)

    class Silent(KeywordEngine):
        def predict(self, notes, *, on_progress=None):
            return []

    with pytest.raises(MedcodeError, match="0 answers to 2 notes"):
        evaluate({"a": Silent(WEIGHTS)}, validation, test, vocabulary)
    other = predict_documents(KeywordEngine(WEIGHTS), [98, 99], ["sugar", "well"])
    with pytest.raises(MedcodeError, match="other validation documents than the 2"):
        evaluate_answers({"a": Answers(other, other)}, validation, test, vocabulary)


def test_a_report_survives_the_disk(vocabulary, validation, test, tmp_path):
    report = evaluate({"adapter": KeywordEngine(WEIGHTS)}, validation, test, vocabulary)
    write_report(report, tmp_path / "new" / "evaluation.json")
    assert read_report(tmp_path / "new" / "evaluation.json") == report
    assert len(list((tmp_path / "new").iterdir())) == 1
    assert "pressure" not in (tmp_path / "new" / "evaluation.json").read_text()
    with pytest.raises(MedcodeError, match="no evaluation there"):
        read_report(tmp_path / "none.json")
    (tmp_path / "old.json").write_text(json.dumps({"documents": 3}))
    with pytest.raises(MedcodeError, match="engines"):
        read_report(tmp_path / "old.json")
    with pytest.raises(MedcodeError, match="was not evaluated"):
        report.engine("linear")


def changed(report, **changes):
    engine = EngineEvaluation.model_validate(report.engines[0].model_dump() | changes)
    return report.model_copy(update={"engines": (engine,)})


def test_collapse_is_told(vocabulary, validation, test):
    report = evaluate({"adapter": KeywordEngine(WEIGHTS)}, validation, test, vocabulary)
    assert collapse_problems(report, "adapter") == []
    same = collapse_problems(changed(report, distinct_answers=1, documents_without_codes=0), "adapter")
    assert same == ["adapter predicts the same codes for all 3 test documents"]
    silent = collapse_problems(changed(report, distinct_answers=1, documents_without_codes=3), "adapter")
    assert silent == ["adapter predicts no code for any of 3 test documents"]
    nan = report.engines[0].metrics[0].model_dump() | {"value": math.nan}
    assert "is nan" in collapse_problems(changed(report, metrics=[nan]), "adapter")[0]
    prior = evaluate({"p": FrequencyPriorEngine(vocabulary, 10)}, validation, test, vocabulary)
    assert collapse_problems(prior, "p")  # alike for everybody, by design
