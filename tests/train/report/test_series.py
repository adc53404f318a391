"""Thinning keeps what a person would miss: the spikes, the ends, the level."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import medfilt

from vesalius.train.report.series import median, moving_median, thin

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200)


def records(series: list[float]) -> list[dict[str, float]]:
    return [{"step": step, "loss": value} for step, value in enumerate(series)]


@given(values, st.integers(1, 50))
def test_never_more_points_than_asked_for_and_no_extreme_lost(series: list[float], points: int) -> None:
    thinned = thin(records(series), "loss", points=points)
    assert len(thinned) == min(points, len(series))
    assert min(point.low for point in thinned) == min(series)
    assert max(point.high for point in thinned) == max(series)


@given(values)
def test_with_room_for_all_and_no_window_nothing_changes(series: list[float]) -> None:
    thinned = thin(records(series), "loss", points=len(series), window=0.0)
    assert [point.value for point in thinned] == series


@given(values, st.integers(1, 60))
def test_a_line_between_the_ends_stays_between_its_values(series: list[float], points: int) -> None:
    for point in thin(records(series), "loss", points=points, window=0.0):
        slack = 1e-9 * max(1.0, abs(point.low), abs(point.high))
        assert point.low - slack <= point.value <= point.high + slack


def test_steps_without_a_finite_value_are_left_out() -> None:
    holes = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 3.0}, {"step": 3}, {"step": 4, "loss": math.inf}]
    assert [(point.step, point.value) for point in thin(holes, "loss")] == [(2.0, 3.0)]
    assert thin(holes, "lr") == []


@pytest.mark.parametrize("reach", [0, 1, 3, 10])
def test_moving_median_is_that_of_scipy_away_from_the_ends(reach: int) -> None:
    series = np.random.default_rng(0).normal(size=200)
    ours, theirs = moving_median(series, reach=reach), medfilt(series, 2 * reach + 1)
    np.testing.assert_array_equal(ours[reach : 200 - reach], theirs[reach : 200 - reach])


@given(values, st.integers(0, 20))
def test_moving_median_keeps_a_rising_series_and_its_ends(series: list[float], reach: int) -> None:
    rising = np.sort(np.array(series))
    np.testing.assert_array_equal(moving_median(rising, reach=reach), rising)


def test_median_of_a_series() -> None:
    assert median(records([3.0, 1.0, math.nan, 2.0]), "loss") == 2.0
    assert median([], "loss") is None
