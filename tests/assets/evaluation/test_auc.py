import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from medcode_assets.evaluation import auc
from medcode_assets.evaluation.auc import macro_auc, micro_auc

# Four documents, three codes; 0 is not told.
GOLD = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])
SCORES = np.array([[0.9, 0.6, 0.3], [0.4, 0.0, 0.0], [0.4, 0.0, 0.0], [0.0, 0.0, 0.0]])


def value(statistic, documents):
    return statistic(np.ones((documents, 1)))[0]


def test_macro_by_hand():
    # Code 0: of the pairs (.9 .4) (.9 0) (.4 .4) (.4 0) three are in order and one is tied: 3.5 / 4.
    # Code 1: the positive was not told: behind .6 and tied with two, 1 / 3. Code 2 has no positive.
    assert value(macro_auc(csr_array(GOLD), csr_array(SCORES)), 4) == pytest.approx((3.5 / 4 + 1 / 3) / 2)


def test_micro_by_hand():
    # Positives .9 .4 0; negatives .6 .4 .3 and six 0. Of 9 each: .9 beats 9, .4 beats 7 and ties with 1, 0 ties with 6.
    assert value(micro_auc(csr_array(GOLD), csr_array(SCORES)), 4) == pytest.approx((9 + 7.5 + 3) / 27)


def test_undefined_is_nan():
    everything = csr_array([[1, 1], [1, 1]])
    for gold in (everything, csr_array((2, 2), dtype=np.int64)):
        for area in (macro_auc, micro_auc):
            assert math.isnan(value(area(gold, csr_array([[0.5, 0.1], [0.2, 0.3]])), 2))


def test_nothing_told_is_a_half():
    gold = csr_array([[1, 0], [0, 0]])
    for area in (macro_auc, micro_auc):
        assert value(area(gold, csr_array((2, 2))), 2) == 0.5


def test_a_told_zero_is_above_what_was_not_told():
    gold = csr_array([[1], [0]])
    told = csr_array((np.array([0.0]), (np.array([0]), np.array([0]))), shape=(2, 1))
    assert value(macro_auc(gold, told), 2) == 1.0


@st.composite
def answers(draw):
    documents, codes = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    cells = documents * codes
    gold = np.array(draw(st.lists(st.integers(0, 1), min_size=cells, max_size=cells)))
    scores = np.array(draw(st.lists(st.sampled_from([0, 0, 0.2, 0.4, 0.4, 0.7, 1.0]), min_size=cells, max_size=cells)))
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=documents, max_size=documents)))
    return gold.reshape(documents, codes), scores.reshape(documents, codes), weights


def scikit_learn(gold: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    columns = [place for place in range(gold.shape[1]) if 0 < gold[:, place].sum() < len(gold)]
    areas = [roc_auc_score(gold[:, place], scores[:, place]) for place in columns]
    both = 0 < gold.sum() < gold.size
    return np.mean(areas) if areas else math.nan, roc_auc_score(gold.ravel(), scores.ravel()) if both else math.nan


@settings(deadline=None, max_examples=60)
@given(answers())
def test_as_scikit_learn_on_the_repeated_documents(answer):
    gold, scores, weights = answer
    macro, micro = scikit_learn(np.repeat(gold, weights, axis=0), np.repeat(scores, weights, axis=0))
    sample = weights[:, None].astype(float)
    assert macro_auc(csr_array(gold), csr_array(scores))(sample)[0] == pytest.approx(macro, nan_ok=True)
    assert micro_auc(csr_array(gold), csr_array(scores))(sample)[0] == pytest.approx(micro, nan_ok=True)


def test_stretches_change_nothing(monkeypatch):
    generator = np.random.default_rng(0)
    gold = csr_array((generator.random((40, 12)) < 0.2).astype(np.int64))
    scores = csr_array(np.where(generator.random((40, 12)) < 0.6, generator.integers(1, 9, (40, 12)) / 10, 0))
    weights = generator.integers(0, 3, (40, 7)).astype(float)
    expected = [area(gold, scores)(weights) for area in (macro_auc, micro_auc)]
    for stretch in (1, 3, 50):
        monkeypatch.setattr(auc, "STRETCH", stretch)
        for area, found in zip((macro_auc, micro_auc), expected, strict=True):
            np.testing.assert_array_equal(area(gold, scores)(weights), found)
