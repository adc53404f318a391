"""Reliability bins equal scikit-learn's calibration curve, and the error is their weighted distance."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from vesalius.evals.calibration import calibration_error, reliability

predictions = st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=2, max_size=60)


@given(predictions, st.integers(1, 12))
def test_bins_equal_scikit_learns(pairs: list[tuple[float, bool]], bins: int) -> None:
    probabilities, outcomes = (list(column) for column in zip(*pairs, strict=True))
    ours = reliability(probabilities, outcomes, bins=bins)
    edges = np.linspace(0, 1, bins + 1)
    assume(len({*outcomes}) == 2)  # scikit-learn wants both, and puts what is exactly on an edge below it
    assume(not any(p in edges[1:-1] for p in probabilities))
    observed, predicted = calibration_curve(outcomes, probabilities, n_bins=bins)
    np.testing.assert_allclose([each.observed for each in ours], observed, rtol=1e-12)
    np.testing.assert_allclose([each.predicted for each in ours], predicted, rtol=1e-12)


@given(predictions)
def test_every_prediction_is_in_the_bin_that_it_lies_in(pairs: list[tuple[float, bool]]) -> None:
    probabilities, outcomes = (list(column) for column in zip(*pairs, strict=True))
    for each in (found := reliability(probabilities, outcomes, bins=7)):
        inside = [p for p in probabilities if each.low <= p and (p < each.high or each.high == 1)]
        assert each.count == len(inside)
    assert sum(each.count for each in found) == len(probabilities)


def test_the_error_is_the_mean_distance_over_predictions() -> None:
    probabilities, outcomes = [0.1, 0.15, 0.9, 0.8], [False, True, True, True]
    expected = (2 * abs(0.125 - 0.5) + 1 * abs(0.8 - 1) + 1 * abs(0.9 - 1)) / 4
    assert calibration_error(reliability(probabilities, outcomes, bins=10)) == pytest.approx(expected)
    assert calibration_error([]) == 0


def test_a_calibrated_predictor_has_nearly_no_error() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.random(20_000)
    outcomes = draw.random(20_000) < probabilities
    assert calibration_error(reliability(probabilities, outcomes)) < 0.015
    assert calibration_error(reliability(probabilities**3, outcomes)) > 0.1


def test_confidences_may_begin_at_a_half() -> None:
    [only] = reliability([0.5, 0.54], [True, False], bins=10, low=0.5)
    assert (only.low, only.high, only.count) == (0.5, 0.55, 2)


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"probabilities must lie from 0\.0 to 1, got 0\.5 to 1\.5"):
        reliability([0.5, 1.5], [True, True])
    with pytest.raises(ValueError, match="got 1 probabilities and 2 outcomes"):
        reliability([0.5], [True, True])
