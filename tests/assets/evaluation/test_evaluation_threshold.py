import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from medcode_assets.evaluation.threshold import apply_threshold, choose_threshold, precision_recall_curve
from medcode_serving.errors import MedcodeError


def scores(rows):
    return csr_array(np.array(rows, dtype=float))


def micro_f1(gold, predicted):
    tp = (gold * predicted).sum()
    total = gold.sum() + predicted.sum()
    return 2 * tp / total if total else 0.0


def test_by_hand():
    # In falling order: .9 right, .8 wrong, .7 right, .2 wrong; three codes are asked for.
    probabilities = scores([[0.9, 0.8, 0.0], [0.7, 0.0, 0.2]])
    gold = csr_array([[1, 0, 0], [1, 1, 0]])
    # F1 2·1/(1+3) = .5, 2·1/(2+3) = .4, 2·2/(3+3) = .667, 2·2/(4+3) = .571
    assert choose_threshold(probabilities, gold) == 0.7
    assert apply_threshold(probabilities, 0.7).toarray().tolist() == [[1, 1, 0], [1, 0, 0]]


def test_equal_probabilities_enter_together():
    probabilities = scores([[0.5, 0.5, 0.5, 0.4]])
    assert choose_threshold(probabilities, csr_array([[1, 0, 0, 1]])) == 0.4
    assert choose_threshold(probabilities, csr_array([[1, 0, 0, 0]])) == 0.5


def test_of_equal_f1_the_highest_threshold_wins():
    # One of one right: 2/(1+2). Then two of four: 4/(4+2). Both are 2/3.
    assert choose_threshold(scores([[0.9, 0.3, 0.3, 0.3]]), csr_array([[1, 1, 0, 0]])) == 0.9


def test_nothing_told_gives_one_and_nothing_right_the_highest():
    assert choose_threshold(csr_array((2, 3), dtype=float), csr_array([[1, 0, 0], [0, 0, 1]])) == 1.0
    assert choose_threshold(scores([[0.4, 0.6]]), csr_array([[0, 0]])) == 0.6


def test_a_stored_zero_was_told_and_what_is_not_stored_was_not():
    told_zero = csr_array((np.array([0.0, 0.9]), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
    assert apply_threshold(told_zero, 0.0).toarray().tolist() == [[1, 1, 0]]
    assert apply_threshold(told_zero, 0.5).toarray().tolist() == [[0, 1, 0]]
    assert choose_threshold(told_zero, csr_array([[1, 1, 0]])) == 0.0
    assert told_zero.nnz == 2  # unchanged


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1, np.inf])
def test_what_is_no_probability_fails_loudly(wrong):
    with pytest.raises(MedcodeError, match="1 of 2 code probabilities"):
        choose_threshold(scores([[0.5, wrong]]), csr_array([[1, 0]]))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="scores are"):
        choose_threshold(scores([[0.5]]), csr_array([[1, 0]]))


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.8, 1.0]), st.integers(0, 1)), min_size=1, max_size=24),
    st.integers(0, 3),
)
def test_no_threshold_is_better(pairs, missed):
    probabilities = np.array([[value for value, _ in pairs] + [0.0] * missed])
    gold = np.array([[hit for _, hit in pairs] + [1] * missed])
    chosen = choose_threshold(csr_array(probabilities), csr_array(gold))
    predicted = apply_threshold(csr_array(probabilities), chosen).toarray()
    assert (predicted == ((probabilities >= chosen) & (probabilities > 0))).all()
    by_threshold = {value: micro_f1(gold, (probabilities >= value).astype(int)) for value, _ in pairs}
    best = max(by_threshold.values())
    assert micro_f1(gold, predicted) == pytest.approx(best)
    assert chosen == max(value for value, f1 in by_threshold.items() if f1 == pytest.approx(best))


def test_the_curve_is_spread_over_recall_and_not_over_a_long_tail():
    # Two right codes at .9 and .8, then a thousand wrong ones, then the third of three.
    tail = np.linspace(0.5, 0.1, 1000)
    told = scores([[0.9, 0.8, *tail, 0.05]])
    gold = csr_array(np.array([[1, 1, *[0] * 1000, 1]]))
    curve = precision_recall_curve(told, gold, points=4)
    assert [(point.threshold, point.precision, point.recall) for point in curve] == [
        (0.9, 1.0, 1 / 3),
        (0.8, 1.0, 2 / 3),
        (0.05, 3 / 1003, 1.0),
    ]
    assert precision_recall_curve(csr_array((1, 3)), csr_array(np.array([[1, 0, 0]]))) == []
