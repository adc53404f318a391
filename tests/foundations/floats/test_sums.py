"""Sums against math.fsum, which is exact, and their errors against the bounds of the textbook."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vesalius.foundations.floats.sums import METHODS, blocked, bound, error, kahan, neumaier, pairwise, sequential

VECTORS = st.one_of(
    hnp.arrays(np.float64, st.integers(0, 300), elements=st.floats(-1e6, 1e6)),
    hnp.arrays(np.float32, st.integers(0, 300), elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float16, st.integers(0, 100), elements=st.floats(-100, 100, width=16)),
)


@pytest.mark.parametrize("method", METHODS)
@given(VECTORS)
def test_no_sum_is_off_by_more_than_its_bound(method, x):
    assert METHODS[method](x).dtype == x.dtype
    assert error(method, x) <= bound(method, x)


@pytest.mark.parametrize("method", METHODS)
@given(hnp.arrays(np.int64, st.integers(0, 300), elements=st.integers(-1000, 1000)))
def test_small_integers_are_added_exactly(method, x):
    assert METHODS[method](x.astype(np.float32)) == x.sum()


def test_sequential_sums_are_a_loop():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    total = np.float32(0)
    for number in x:
        total += number
    assert sequential(x) == total


def test_blocked_sums_are_sequential_within_and_over_blocks():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    runs = np.array([sequential(x[i : i + 10]) for i in range(0, 1000, 10)])
    assert blocked(x, 10) == sequential(runs)


def test_pairwise_sums_are_a_recursion():
    def halves(x: np.ndarray) -> np.float32:
        return x[0] if len(x) == 1 else halves(x[: len(x) // 2]) + halves(x[len(x) // 2 :])

    x = np.random.default_rng(0).normal(size=1024).astype(np.float32)
    assert pairwise(x) == halves(x)


def test_ten_thousand_tenths_show_the_methods_in_their_order():
    """In float16 a sequential sum stops at 256, where a tenth is less than half a unit in the last place."""
    x = np.full(10_000, 0.1, dtype=np.float16)
    assert sequential(x) == 256
    errors = [error(method, x) for method in ("sequential", "blocked", "pairwise", "kahan")]
    assert errors[0] > 700 > 40 > errors[1]
    assert errors[2] <= errors[1]
    assert errors[3] <= float(np.spacing(np.float16(1000)))


def test_many_random_numbers_show_them_in_float32():
    x = np.random.default_rng(0).random(2**17).astype(np.float32)
    exact = math.fsum(x.tolist())
    assert error("sequential", x) > 10 * error("pairwise", x)
    assert float(neumaier(x)) == float(np.float32(exact))


def test_neumaier_keeps_what_kahan_loses_to_a_larger_number():
    x = np.array([1.0, 1e100, 1.0, -1e100])
    assert kahan(x) == 0
    assert neumaier(x) == 2
