"""Calibration by hand, its order-keeping, and the expected calibration error."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from medcode_assets.evaluation.calibrate import (
    calibrated,
    expected_calibration_error,
    fit_calibration,
    reliability,
)
from medcode_serving.calibration import Calibration


def one_row(probabilities, right):
    return csr_array(np.array([probabilities], dtype=float)), csr_array(np.array([right], dtype=np.int64))


def test_reliability_and_its_error_by_hand():
    # Bin 1/15..2/15 holds .1 (wrong); bin 13/15..14/15 holds .9, .9 (one right): |.1-0| * 1/3 + |.9-.5| * 2/3.
    scores, gold = one_row([0.1, 0.9, 0.9, 0.0], [0, 1, 0, 1])
    bins = reliability(scores, gold)
    assert [(b.codes, b.probability, b.right) for b in bins] == [(1, 0.1, 0.0), (2, 0.9, 0.5)]
    assert expected_calibration_error(bins) == pytest.approx(0.1 / 3 + 0.4 * 2 / 3)
    assert expected_calibration_error(()) == 0.0


def test_a_certain_code_falls_into_the_last_bin():
    (bin_,) = reliability(*one_row([1.0], [1]))
    assert (bin_.low, bin_.high, bin_.right) == (14 / 15, 1.0, 1.0)


def test_temperature_finds_the_scale_that_was_put_in():
    random = np.random.default_rng(0)
    log_odds = random.normal(0, 1.5, 40_000)
    right = random.random(40_000) < 1 / (1 + np.exp(-(0.5 * log_odds - 1)))  # told odds are twice too sure
    found = fit_calibration(*one_row(1 / (1 + np.exp(-log_odds)), right), "temperature")
    assert (found.slope, found.shift) == pytest.approx((0.5, -1), abs=0.05)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_lowers_the_error_on_unseen_codes(method):
    random = np.random.default_rng(1)
    told = random.random(20_000)
    right = random.random(20_000) < told**3
    fitted = fit_calibration(*one_row(told[:10_000], right[:10_000]), method)
    scores, gold = one_row(told[10_000:], right[10_000:])
    before, after = (expected_calibration_error(reliability(s, gold)) for s in (scores, calibrated(scores, fitted)))
    assert before > 0.2
    assert after < (0.05 if method == "temperature" else 0.02)


def test_auto_takes_isotonic_only_where_there_is_enough():
    told = np.linspace(0.01, 0.99, 2200)
    half = np.arange(2200) % 2
    assert fit_calibration(*one_row(told, half), "auto").method == "isotonic"
    assert fit_calibration(*one_row(told[:1000], half[:1000]), "auto").method == "temperature"


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
@pytest.mark.parametrize("right", [[1, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]])
def test_few_and_one_sided_codes_stay_finite(method, right):
    fitted = fit_calibration(*one_row([0.2, 0.5, 0.9], right), method)
    values = fitted.apply([0.0, 0.2, 0.5, 0.9, 1.0])
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all()
    assert 0 <= values[0] <= values[-1] <= 1


def test_nothing_told_and_none_are_the_identity():
    nothing = csr_array((2, 3), dtype=float), csr_array((2, 3), dtype=np.int64)
    assert fit_calibration(*nothing, "auto") == Calibration()
    assert fit_calibration(*one_row([0.4], [1]), "none").apply([0.4]).tolist() == [0.4]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=1, max_size=40),
    st.sampled_from(["temperature", "isotonic"]),
)
def test_the_order_of_probabilities_is_never_turned(pairs, method):
    told, right = map(list, zip(*pairs, strict=True))
    values = fit_calibration(*one_row(told, np.array(right, dtype=int)), method).apply(sorted(told))
    assert (np.diff(values) >= 0).all()
    assert ((values >= 0) & (values <= 1)).all()


def test_the_bundle_keeps_it_exactly():
    fitted = fit_calibration(*one_row(np.linspace(0.1, 0.9, 30), np.arange(30) % 3 == 0), "isotonic")
    again = Calibration.model_validate_json(fitted.model_dump_json())
    probabilities = np.linspace(0, 1, 101)
    assert np.array_equal(again.apply(probabilities), fitted.apply(probabilities))
