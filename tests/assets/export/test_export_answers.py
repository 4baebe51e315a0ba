import pytest

from medcode_assets.evaluation.bootstrap import document_weights, interval
from medcode_assets.export.answers import compare_f1
from medcode_serving.bundle import Decision
from medcode_serving.calibration import Calibration
from medcode_serving.codes.vocabulary import Vocabulary, VocabularyCode
from medcode_serving.engines.baseline import FrequencyPriorEngine
from medcode_serving.engines.protocol import Prediction, ScoredCode
from medcode_serving.errors import MedcodeError

SEPSIS, PNEUMONIA = ("icd10cm", "A41.9"), ("icd10cm", "J18.9")
NOTES = ["septic, coughs", "septic", "coughs", "well"]
GOLD = [[SEPSIS, PNEUMONIA], [SEPSIS], [PNEUMONIA], []]
HALF = Decision(threshold=0.5)


class Words:
    """Tells sepsis with 0.9 where a note says so, and pneumonia with another probability where it says cough."""

    name = "words"

    def __init__(self, cough: float | None) -> None:
        self.cough = cough

    def predict(self, notes, *, options=None, on_progress=None):
        if on_progress is not None:
            on_progress(len(notes))
        told = {"septic": ScoredCode(*SEPSIS, None, 0.9), "cough": ScoredCode(*PNEUMONIA, None, self.cough)}
        return [Prediction(tuple(code for word, code in told.items() if word in note)) for note in notes]

    def close(self):
        pass


def test_what_a_file_loses_by_hand():
    told = []
    found = compare_f1(Words(0.8), Words(0.4), NOTES, GOLD, HALF, on_progress=told.append)
    assert told == [4, 4]
    assert (found.notes, found.equal_answers) == (4, 2)
    assert found.merged == 1
    assert found.file == pytest.approx(2 / 3)  # right: 2, missed: 2
    assert found.loss == pytest.approx(1 / 3)


def test_the_interval_is_that_of_the_difference_on_the_same_samples():
    found = compare_f1(Words(0.8), Words(0.4), NOTES * 10, GOLD * 10, HALF, resamples=200, seed=3)
    both, septic, cough, _ = document_weights(40, range(200), 3).reshape(10, 4, 200).sum(axis=0)
    right, missed = both + septic, both + cough
    assert (found.low, found.high) == pytest.approx(interval(1 / 3, 1 - 2 * right / (2 * right + missed)))
    assert 0 < found.low < found.loss < found.high


@pytest.mark.parametrize("cough", [0.8, None])
def test_equal_answers_lose_nothing_and_that_is_certain(cough):
    found = compare_f1(Words(0.8), Words(cough), NOTES, GOLD, HALF)
    assert (found.loss, found.low, found.high, found.equal_answers) == (0, 0, 0, 4)


def test_probabilities_are_calibrated_before_the_threshold():
    raised = Decision(threshold=0.5, calibration=Calibration(method="temperature", shift=1.0))
    found = compare_f1(Words(0.8), Words(0.4), NOTES, GOLD, raised)  # 0.4 becomes 0.64
    assert (found.merged, found.file, found.equal_answers) == (1, 1, 4)


def test_codes_that_nobody_asked_for_count_against_an_engine():
    codes = [VocabularyCode("icd10cm", code, code, None, 9) for code in ("A41.9", "I10")]
    found = compare_f1(Words(0.8), FrequencyPriorEngine(Vocabulary(codes), 10), NOTES, GOLD, HALF)
    assert found.file == pytest.approx(
        2 * 2 / (2 * 2 + 6 + 2)
    )  # sepsis to all four, and I10: 2 right, 6 wrong, 2 missed
    assert found.equal_answers == 0


def test_nothing_to_measure_on_is_a_clear_error():
    with pytest.raises(MedcodeError, match="no documents"):
        compare_f1(Words(0.8), Words(0.8), [], [], HALF)
    with pytest.raises(MedcodeError, match="none has a code"):
        compare_f1(Words(0.8), Words(0.8), ["well"], [[]], HALF)
