import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.metrics import accuracy_score

from medcode_assets.evaluation.ranking import DEPTHS, document_means, exact_matches, ranking_values

# Codes 0 … 6. The first document has 0, 1 and 5, and 2, 0, 4, 1 are told in this order; the second has 3, told first.
GOLD = csr_array([[1, 1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0]])
SCORES = csr_array([[0.8, 0.2, 0.9, 0, 0.5, 0, 0], [0, 0, 0, 0.7, 0.6, 0, 0]])


def test_by_hand():
    found = ranking_values(GOLD, SCORES)
    # Right at ranks 2 and 4: of 5, 8 and 15 places 2 are right, of 3 gold codes 2.
    assert found["precision_at_5"].tolist() == [2 / 5, 1 / 5]
    assert found["precision_at_8"].tolist() == [2 / 8, 1 / 8]
    assert found["precision_at_15"].tolist() == [2 / 15, 1 / 15]
    assert found["recall_at_5"].tolist() == found["recall_at_15"].tolist() == [2 / 3, 1]
    # (1/2 + 2/4) / 3: the code that was never told counts in the divisor.
    assert found["map"].tolist() == pytest.approx([1 / 3, 1])
    # Of the first 3 one is right.
    assert found["r_precision"].tolist() == pytest.approx([1 / 3, 1])


def test_places_beyond_the_depth_do_not_count():
    gold = csr_array(np.eye(1, 20, 6, dtype=np.int64))  # code 6, told at rank 7
    scores = csr_array(np.linspace(0.9, 0.1, 20)[None, :])
    found = ranking_values(gold, scores)
    assert [found[f"recall_at_{depth}"][0] for depth in DEPTHS] == [0, 1, 1]
    assert [found[f"precision_at_{depth}"][0] for depth in DEPTHS] == [0, 1 / 8, 1 / 15]


def test_equal_scores_are_ranked_by_column():
    scores = csr_array([[0.5, 0.5, 0.5]])
    for column, expected in ((0, 1), (1, 1 / 2), (2, 1 / 3)):
        assert ranking_values(csr_array(np.eye(1, 3, column, dtype=np.int64)), scores)["map"].tolist() == [expected]


def test_a_told_zero_has_a_rank():
    scores = csr_array((np.array([0.0]), (np.array([0]), np.array([1]))), shape=(1, 2))
    assert scores.nnz == 1
    assert ranking_values(csr_array([[0, 1]]), scores)["r_precision"].tolist() == [1]


def test_documents_without_gold_lose_precision_and_are_left_out_of_the_rest():
    gold = csr_array([[1, 0], [0, 0]])
    scores = csr_array([[0.9, 0.0], [0.8, 0.7]])
    means = document_means(ranking_values(gold, scores))(np.ones((2, 1)))
    assert means["precision_at_5"].tolist() == [(1 / 5 + 0) / 2]
    assert means["map"].tolist() == means["recall_at_5"].tolist() == means["r_precision"].tolist() == [1]
    only_without = document_means(ranking_values(gold, scores))(np.array([[0.0], [2.0]]))
    assert np.isnan(only_without["map"]).all()
    assert only_without["precision_at_5"].tolist() == [0]


def test_nothing_told_is_zero():
    found = ranking_values(GOLD, csr_array((2, 7)))
    assert all(values.tolist() == [0, 0] for values in found.values())


def test_exact_matches_by_hand():
    gold = csr_array([[1, 0], [1, 1], [0, 0], [0, 0]])
    predicted = csr_array([[1, 0], [1, 0], [0, 0], [0, 1]])
    assert exact_matches(gold, predicted).tolist() == [1, 0, 1, 0]


@st.composite
def answers(draw):
    documents, codes = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    cells = documents * codes
    gold = np.array(draw(st.lists(st.integers(0, 1), min_size=cells, max_size=cells)))
    scores = np.array(
        draw(st.lists(st.sampled_from([0, 0, 0.25, 0.5, 0.5, 0.75, 1.0]), min_size=cells, max_size=cells))
    )
    return gold.reshape(documents, codes), scores.reshape(documents, codes)


def naive(gold: list[int], scores: list[float]) -> dict[str, float]:
    """The definitions, for one document with gold codes."""
    told = sorted(
        (column for column, score in enumerate(scores) if score), key=lambda column: (-scores[column], column)
    )
    right = [gold[column] for column in told]
    found = {"map": sum(sum(right[: i + 1]) / (i + 1) for i in range(len(right)) if right[i]) / sum(gold)}
    for depth in DEPTHS:
        found[f"precision_at_{depth}"] = sum(right[:depth]) / depth
        found[f"recall_at_{depth}"] = sum(right[:depth]) / sum(gold)
    return found | {"r_precision": sum(right[: sum(gold)]) / sum(gold)}


@settings(deadline=None, max_examples=60)
@given(answers())
def test_as_a_naive_loop(pair):
    gold, scores = pair
    found = ranking_values(csr_array(gold), csr_array(scores))
    for document in np.flatnonzero(gold.any(axis=1)):
        expected = naive(gold[document].tolist(), scores[document].tolist())
        assert {name: values[document] for name, values in found.items()} == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(answers())
def test_exact_match_ratio_as_scikit_learn(pair):
    gold, scores = pair
    predicted = (scores >= 0.5).astype(int)
    found = exact_matches(csr_array(gold), csr_array(predicted)).mean()
    assert found == pytest.approx(accuracy_score(gold, predicted) if gold.shape[1] > 1 else (gold == predicted).mean())
