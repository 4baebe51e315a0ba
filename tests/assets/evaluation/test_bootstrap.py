import numpy as np
import pytest

from medcode_assets.evaluation.bootstrap import document_weights, estimate, interval, p_value, resample
from medcode_assets.evaluation.ranking import document_means

VALUES = np.array([0.0, 0.25, 0.5, 1.0, np.nan])
MEANS = document_means({"mean": VALUES})


def test_an_estimate_counts_each_document_once():
    assert estimate(MEANS, 5) == {"mean": 1.75 / 4}


def test_samples_hold_as_many_documents_as_there_are():
    weights = document_weights(7, range(40), seed=3)
    assert weights.shape == (7, 40)
    assert (weights.sum(axis=0) == 7).all()
    assert len(np.unique(weights, axis=1).T) > 30


def test_the_same_values_whatever_the_blocks_and_threads():
    expected = resample(MEANS, 5, resamples=23, seed=1)["mean"]
    for block, threads in ((1, 1), (5, 3), (23, 2), (1000, 1)):
        found = resample(MEANS, 5, resamples=23, seed=1, block=block, threads=threads)["mean"]
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(resample(MEANS, 5, resamples=23, seed=2)["mean"], expected)
    assert resample(MEANS, 5, resamples=0, seed=1) == {}


def test_interval_by_hand():
    # 0, 1, …, 40 has mean 20 and percentiles 1 and 39. Around 21 they are 2 and 40.
    assert interval(21.0, np.arange(41.0)) == pytest.approx((2, 40))
    assert interval(21.0, np.append(np.arange(41.0), np.nan)) == pytest.approx((2, 40))


def test_an_interval_holds_its_estimate():
    assert interval(0.3, np.full(9, 0.1)) == (0.3, 0.3)
    assert interval(0.3, np.full(9, np.nan)) == (0.3, 0.3)
    low, high = interval(0.5, np.append(np.zeros(999), 1000.0))  # the mean of the samples is outside their percentiles
    assert low <= 0.5 <= high


def test_p_value_by_hand():
    # Around 1: -1, 0, 1, 2, 3. At or below 0 are two of five, at or above four: 2 · 2/5.
    assert p_value(1.0, np.array([0.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.8)
    assert p_value(-1.0, -np.array([0.0, 1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.8)
    assert p_value(9.0, np.linspace(8, 10, 50)) == pytest.approx(1 / 50)  # none on the other side
    assert p_value(0.0, np.zeros(50)) == 1.0


def micro_f1(right, predicted, gold):
    """Return the statistic of three arrays [documents]."""
    counts = np.stack([right, predicted, gold])

    def values(weights):
        tp, told, asked = counts @ weights
        return {"micro_f1": 2 * tp / (told + asked)}

    return values


def test_intervals_cover_the_population_value():
    """200 test sets of 60 documents from a population whose micro F1 is known, with 200 samples each."""
    generator = np.random.default_rng(7)
    # A document has 1 + Poisson(8) gold codes, finds each with a probability of its own, uniform on [.3, .9], and
    # predicts Poisson(5) wrong ones: E gold = 9, E right = 9 · .6 = 5.4, E predicted = 10.4, F1 = 10.8 / 19.4.
    population = 2 * 5.4 / (9 + 10.4)
    covered = 0
    for seed in range(200):
        gold = 1 + generator.poisson(8, 60)
        right = generator.binomial(gold, generator.uniform(0.3, 0.9, 60))
        statistic = micro_f1(right, right + generator.poisson(5, 60), gold)
        found = resample(statistic, 60, resamples=200, seed=seed, threads=1)["micro_f1"]
        low, high = interval(estimate(statistic, 60)["micro_f1"], found)
        covered += low <= population <= high
    assert 0.90 <= covered / 200 <= 0.99
