import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from medcode_assets.evaluation.metrics import (
    CodeCounts,
    code_counts,
    in_label_space,
    indicator_matrix,
    measure,
    precision_recall_f1,
)
from medcode_serving.errors import MedcodeError

# Two documents, four codes. Code 3 is no document's, and predicted for the second.
GOLD = csr_array([[1, 1, 0, 0], [0, 1, 1, 0]])
PREDICTED = csr_array([[1, 0, 1, 0], [0, 1, 0, 1]])


def scores(gold, predicted, space):
    return precision_recall_f1(in_label_space(code_counts(gold, predicted), space))


def test_counts_by_hand():
    counts = code_counts(GOLD, PREDICTED)
    assert counts.tp.tolist() == [1, 1, 0, 0]
    assert counts.fp.tolist() == [0, 0, 1, 1]
    assert counts.fn.tolist() == [0, 1, 1, 0]


def test_closed_by_hand():
    # Codes 0, 1, 2: tp 2, fp 1, fn 2.
    assert scores(GOLD, PREDICTED, "closed") == pytest.approx(
        {
            "micro_precision": 2 / 3,
            "micro_recall": 2 / 4,
            "micro_f1": 2 / (2 + 1.5),
            "macro_precision": (1 + 1 + 0) / 3,
            "macro_recall": (1 + 1 / 2 + 0) / 3,
            "macro_f1": (1 + 1 / 1.5 + 0) / 3,
        }
    )


def test_open_by_hand():
    # Code 3 adds a false positive and a code with F1 0.
    assert scores(GOLD, PREDICTED, "open") == pytest.approx(
        {
            "micro_precision": 2 / 4,
            "micro_recall": 2 / 4,
            "micro_f1": 2 / 4,
            "macro_precision": (1 + 1 + 0 + 0) / 4,
            "macro_recall": (1 + 1 / 2 + 0 + 0) / 4,
            "macro_f1": (1 + 1 / 1.5 + 0 + 0) / 4,
        }
    )


def test_nothing_predicted_is_zero_and_not_nan():
    empty = csr_array((2, 4), dtype=np.int64)
    for space in ("closed", "open"):
        assert set(scores(GOLD, empty, space).values()) == {0.0}
    assert set(precision_recall_f1(CodeCounts(*[np.array([], dtype=np.int64)] * 3)).values()) == {0.0}


def test_measure_names_engine_split_and_label_space():
    metrics = measure(GOLD, PREDICTED, engine="adapter", split="test")
    assert len(metrics) == len({(metric.name, metric.label_space) for metric in metrics}) == 12
    assert {(metric.engine, metric.split) for metric in metrics} == {("adapter", "test")}


def test_a_split_without_codes_is_an_error():
    with pytest.raises(MedcodeError, match="test split has 2 documents and none has a code"):
        measure(csr_array((2, 4), dtype=np.int64), PREDICTED, engine="adapter", split="test")


def test_shapes_and_values_are_checked():
    with pytest.raises(ValueError, match="gold is"):
        code_counts(GOLD, csr_array((2, 5), dtype=np.int64))
    with pytest.raises(ValueError, match="threshold"):
        code_counts(GOLD, csr_array([[0.5, 0, 0, 0], [0, 0, 0, 0]]))


def test_index_sets_become_a_matrix_in_which_a_repetition_counts_once():
    assert indicator_matrix([[1, 1, 0], [], [3]], 4).toarray().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert indicator_matrix([], 4).shape == (0, 4)
    for wrong in (4, -1):
        with pytest.raises(ValueError, match="outside"):
            indicator_matrix([[wrong]], 4)


def naive(gold: np.ndarray, predicted: np.ndarray, space: str) -> dict[str, float]:
    """The definitions of shared/field/coding.md, one code and one document at a time."""
    rows, totals = [], [0, 0, 0]
    for code in range(gold.shape[1]):
        tp = fp = fn = 0
        for document in range(gold.shape[0]):
            asked, told = gold[document, code], predicted[document, code]
            tp, fp, fn = tp + (asked and told), fp + (told and not asked), fn + (asked and not told)
        if space == "closed" and tp + fn == 0:
            continue
        totals = [totals[0] + tp, totals[1] + fp, totals[2] + fn]
        rows.append((tp, fp, fn))

    def ratio(a, b):
        return a / b if b else 0.0

    def mean(values):
        return sum(values) / len(values) if values else 0.0

    tp, fp, fn = totals
    return {
        "micro_precision": ratio(tp, tp + fp),
        "micro_recall": ratio(tp, tp + fn),
        "micro_f1": ratio(tp, tp + (fp + fn) / 2),
        "macro_precision": mean([ratio(tp, tp + fp) for tp, fp, fn in rows]),
        "macro_recall": mean([ratio(tp, tp + fn) for tp, fp, fn in rows]),
        "macro_f1": mean([ratio(tp, tp + (fp + fn) / 2) for tp, fp, fn in rows]),
    }


@st.composite
def matrices(draw):
    documents, codes = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    bits = st.lists(st.integers(0, 1), min_size=documents * codes, max_size=documents * codes)
    return tuple(np.array(draw(bits)).reshape(documents, codes) for _ in range(2))


@settings(deadline=None, max_examples=150)
@given(matrices(), st.sampled_from(["closed", "open"]))
def test_as_a_naive_loop_and_within_bounds(pair, space):
    found = scores(*map(csr_array, pair), space)
    assert found == pytest.approx(naive(*pair, space))
    assert all(0 <= value <= 1 and math.isfinite(value) for value in found.values())


@settings(deadline=None, max_examples=80)
@given(matrices(), st.randoms(use_true_random=False))
def test_order_of_documents_and_codes_does_not_matter(pair, random):
    gold, predicted = pair
    rows, columns = list(range(gold.shape[0])), list(range(gold.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = [csr_array(matrix[rows][:, columns]) for matrix in pair]
    for space in ("closed", "open"):
        assert scores(*shuffled, space) == pytest.approx(scores(csr_array(gold), csr_array(predicted), space))


@settings(deadline=None, max_examples=80)
@given(matrices())
def test_relations_between_the_label_spaces(pair):
    gold, predicted = map(csr_array, pair)
    closed, open_ = scores(gold, predicted, "closed"), scores(gold, predicted, "open")
    assert closed["micro_recall"] == open_["micro_recall"]  # what is discarded was never asked for
    assert closed["micro_precision"] >= open_["micro_precision"]
    assert closed["macro_f1"] >= open_["macro_f1"]
    if gold.sum():
        perfect = scores(gold, gold, "closed")
        assert set(perfect.values()) == {1.0}
        assert scores(gold, gold, "open")["micro_f1"] == 1.0
