import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.metrics import precision_recall_fscore_support

from medcode_assets.evaluation.metrics import (
    CodeCounts,
    code_counts,
    code_pairs,
    grouped_precision_recall_f1,
    indicator_matrix,
    precision_recall_f1,
)

# Two documents, four codes. Code 3 is no document's, and predicted for the second.
GOLD = csr_array([[1, 1, 0, 0], [0, 1, 1, 0]])
PREDICTED = csr_array([[1, 0, 1, 0], [0, 1, 0, 1]])
SPACES = ("closed", "open", "caml")


def scores(gold, predicted, space):
    return precision_recall_f1(code_counts(gold, predicted), space)


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


OPEN = {
    "micro_precision": 2 / 4,
    "micro_recall": 2 / 4,
    "micro_f1": 2 / 4,
    "macro_precision": (1 + 1 + 0 + 0) / 4,
    "macro_recall": (1 + 1 / 2 + 0 + 0) / 4,
}


def test_open_by_hand():
    # Code 3 adds a false positive and a code with F1 0.
    assert scores(GOLD, PREDICTED, "open") == pytest.approx(OPEN | {"macro_f1": (1 + 1 / 1.5 + 0 + 0) / 4})


def test_caml_by_hand():
    # Macro precision 1/2 and macro recall 3/8: 2 · 1/2 · 3/8 / (7/8) = 3/7.
    assert scores(GOLD, PREDICTED, "caml") == pytest.approx(OPEN | {"macro_f1": 3 / 7})


def test_nothing_predicted_is_zero_and_not_nan():
    empty = csr_array((2, 4), dtype=np.int64)
    for space in SPACES:
        assert set(scores(GOLD, empty, space).values()) == {0.0}
        assert set(precision_recall_f1(CodeCounts(*[np.array([], dtype=np.int64)] * 3), space).values()) == {0.0}


def test_no_documents_are_zero_and_not_nan():
    none = csr_array((0, 4), dtype=np.int64)
    for space in SPACES:
        assert set(scores(none, none, space).values()) == {0.0}


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


@st.composite
def matrices(draw):
    documents, codes = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    bits = st.lists(st.integers(0, 1), min_size=documents * codes, max_size=documents * codes)
    return tuple(np.array(draw(bits)).reshape(documents, codes) for _ in range(2))


def scikit_learn(gold: np.ndarray, predicted: np.ndarray, space: str) -> dict[str, float]:
    if space == "closed":
        asked = gold.any(axis=0)
        gold, predicted = gold[:, asked], predicted[:, asked]
    gold, predicted = np.hstack([gold, gold]), np.hstack([predicted, predicted])  # one column alone would be binary
    found = {}
    for average in ("micro", "macro"):
        three = precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)[:3]
        found |= dict(zip((f"{average}_precision", f"{average}_recall", f"{average}_f1"), three, strict=True))
    if space == "caml":
        precision, recall = found["macro_precision"], found["macro_recall"]
        found["macro_f1"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return found


@settings(deadline=None, max_examples=40)
@given(matrices(), st.sampled_from(SPACES))
def test_as_scikit_learn_and_within_bounds(pair, space):
    found = scores(*map(csr_array, pair), space)
    assert all(0 <= value <= 1 and math.isfinite(value) for value in found.values())
    if pair[0].any():
        assert found == pytest.approx(scikit_learn(*pair, space))


@settings(deadline=None, max_examples=40)
@given(matrices(), st.randoms(use_true_random=False))
def test_order_of_documents_and_codes_does_not_matter(pair, random):
    gold, predicted = pair
    rows, columns = list(range(gold.shape[0])), list(range(gold.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = [csr_array(matrix[rows][:, columns]) for matrix in pair]
    for space in SPACES:
        assert scores(*shuffled, space) == pytest.approx(scores(csr_array(gold), csr_array(predicted), space))


@settings(deadline=None, max_examples=40)
@given(matrices())
def test_relations_between_the_label_spaces(pair):
    gold, predicted = map(csr_array, pair)
    closed, open_, caml = (scores(gold, predicted, space) for space in SPACES)
    assert closed["micro_recall"] == open_["micro_recall"]  # what is discarded was never asked for
    assert closed["micro_precision"] >= open_["micro_precision"]
    assert closed["macro_f1"] >= open_["macro_f1"]
    assert {**caml, "macro_f1": 0} == {**open_, "macro_f1": 0}
    assert caml["macro_f1"] >= open_["macro_f1"] - 1e-12  # the harmonic mean is concave (Opitz & Burst 2019)
    if gold.sum():
        assert set(scores(gold, gold, "closed").values()) == {1.0}
        assert scores(gold, gold, "open")["micro_f1"] == 1.0


@settings(deadline=None, max_examples=40)
@given(matrices(), st.data())
def test_a_weighted_sample_is_the_documents_repeated_and_a_group_is_its_columns(pair, data):
    gold, predicted = pair
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(gold), max_size=len(gold))))
    held = np.array(data.draw(st.lists(st.booleans(), min_size=gold.shape[1], max_size=gold.shape[1])))
    counts = code_pairs(csr_array(gold), csr_array(predicted)).counts(weights[:, None].astype(float))
    repeated = [csr_array(np.repeat(matrix, weights, axis=0)[:, held]) for matrix in pair]
    for space in SPACES:
        found = grouped_precision_recall_f1(counts, csr_array(held[None, :].astype(float)), space)
        assert {name: values[0, 0] for name, values in found.items()} == pytest.approx(scores(*repeated, space))
