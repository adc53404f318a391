"""Best-of-n by counting equals best-of-n by drawing, its KL that of the formula, and the turn is found."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize

from vesalius.evals.overoptimisation import Fit, Point, best_of_n, best_of_n_kl, fit, noise_of, turn


@pytest.mark.parametrize("n", [1, 2, 3, 10, 100])
def test_the_kl_of_best_of_n_is_that_of_the_density_of_a_maximum(n: int) -> None:
    """The best of n uniform ranks u has density p = n·u^(n - 1), and its KL to the uniform one is ∫ p log p."""

    def integrand(u: float) -> float:
        density = n * u ** (n - 1)
        return density * math.log(density) if density > 0 else 0.0

    expected, _ = integrate.quad(integrand, 0, 1)
    assert best_of_n_kl(n) == pytest.approx(expected, abs=1e-7)


def test_n_counts_from_one() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        best_of_n_kl(0)


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_best_of_n_is_the_mean_over_all_draws(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    proxy, gold = draw.normal(size=(2, 3, 6))
    expected = np.mean([
        [(p[best], g[best]) for chosen in combinations(range(6), n) for best in [max(chosen, key=lambda i: p[i])]]
        for p, g in zip(proxy, gold, strict=True)
    ], axis=(0, 1))  # fmt: skip
    [point] = best_of_n(proxy, gold, [n])
    assert (point.proxy, point.gold) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert (point.kl, point.label) == (best_of_n_kl(n), f"n = {n}")


def test_the_proxy_rises_and_a_gold_that_it_misses_turns() -> None:
    """Gold punishes what is extreme, which the proxy loves: Goodhart's law in one line."""
    proxy = np.random.default_rng(0).normal(size=(400, 64))
    points = best_of_n(proxy, proxy - 0.5 * np.maximum(proxy, 0) ** 2, [1, 2, 4, 8, 16, 32, 64])
    assert all(a.proxy < b.proxy for a, b in pairwise(points))
    found = turn(points)
    assert found is not None
    assert points[0].kl < found.kl < points[-1].kl
    assert found.lost > 0
    assert found.proxy_rise > 0
    assert turn(best_of_n(proxy, proxy, [1, 4, 16])) is None
    assert turn(points, noise=found.lost) is None
    assert turn([]) is None


def test_noise_is_twice_the_standard_error_of_a_difference_of_shares() -> None:
    draws = np.random.default_rng(0).binomial(100, 0.3, size=(2, 200_000)) / 100
    points = [Point(kl=0.0, proxy=0.0, gold=0.3), Point(kl=1.0, proxy=0.0, gold=0.1)]
    assert noise_of(points, 100) == pytest.approx(2 * (draws[0] - draws[1]).std(), rel=0.01)


def test_what_was_not_drawn_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="the best of 5 cannot be told from 4 answers"):
        best_of_n(np.zeros((2, 4)), np.zeros((2, 4)), [5])
    with pytest.raises(ValueError, match=r"one shape \(P, N\), got \(2, 4\) and \(2, 3\)"):
        best_of_n(np.zeros((2, 4)), np.zeros((2, 3)), [1])


@pytest.mark.parametrize("method", ["best_of_n", "policy"])
def test_the_fit_finds_the_curve_that_points_lie_on_and_its_turn(method) -> None:
    true = Fit(method=method, alpha=1.3, beta=0.4)
    points = [Point(kl=kl, proxy=0, gold=2.0 + true.gold(kl)) for kl in (0.0, 0.3, 1.0, 4.0, 9.0)]
    found = fit(points, method, start=2.0)
    assert (found.alpha, found.beta) == (pytest.approx(1.3), pytest.approx(0.4))
    highest = optimize.minimize_scalar(lambda kl: -true.gold(kl), bounds=(1e-6, 100), method="bounded").x
    assert found.turn == pytest.approx(highest, rel=1e-3)
    assert Fit(method=method, alpha=1.0, beta=-0.1).turn is None
    assert true.gold(0.0) == 0


def test_a_fit_needs_two_points() -> None:
    with pytest.raises(ValueError, match="got 1"):
        fit([Point(kl=0.0, proxy=0, gold=0), Point(kl=1.0, proxy=0, gold=1)], "policy", start=0.0)
