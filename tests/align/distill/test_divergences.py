"""Divergences against scipy's and their limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from vesalius.align.distill.divergences import divergences, forward_kl, jsd, reverse_kl

distributions = st.lists(st.floats(-6, 6), min_size=5, max_size=5)


def log(numbers: list[float]) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float64).log_softmax(-1)


@given(first=distributions, second=distributions)
@settings(deadline=None)
def test_they_are_scipy_s(first: list[float], second: list[float]) -> None:
    log_q, log_p = log(first), log(second)
    q, p = log_q.exp()[0].numpy(), log_p.exp()[0].numpy()
    assert forward_kl(log_q, log_p).item() == pytest.approx(entropy(p, q), abs=1e-9)
    assert reverse_kl(log_q, log_p).item() == pytest.approx(entropy(q, p), abs=1e-9)
    middle = (p + q) / 2  # scipy's own jensenshannon is nan where p and q are all but equal
    assert jsd(log_q, log_p, 0.5).item() == pytest.approx((entropy(p, middle) + entropy(q, middle)) / 2, abs=1e-9)


@given(first=distributions, second=distributions, beta=st.floats(0.01, 0.99))
@settings(deadline=None)
def test_the_jsd_is_symmetric_in_its_arguments_and_weights_and_bounded(first, second, beta: float) -> None:
    log_q, log_p = log(first), log(second)
    found = jsd(log_q, log_p, beta).item()
    assert found == pytest.approx(jsd(log_p, log_q, 1 - beta).item(), abs=1e-9)
    most = -(beta * math.log(beta) + (1 - beta) * math.log1p(-beta))
    assert -1e-12 <= found <= most + 1e-12


def test_at_its_ends_the_jsd_becomes_the_two_others() -> None:
    log_q, log_p = log([1.0, 0.0, -1.0, 2.0, 0.5]), log([0.0, 2.0, 1.0, -1.0, 0.0])
    small = 1e-7
    assert jsd(log_q, log_p, small).item() / small == pytest.approx(forward_kl(log_q, log_p).item(), rel=1e-5)
    assert jsd(log_q, log_p, 1 - small).item() / small == pytest.approx(reverse_kl(log_q, log_p).item(), rel=1e-5)


@pytest.mark.parametrize("name", divergences(0.5))
def test_they_are_0_only_between_equals(name: str) -> None:
    log_q, log_p = log([1.0, 0.0, -1.0, 2.0, 0.5]), log([1.0, 0.0, -1.0, 2.0, 0.6])
    assert divergences(0.5)[name](log_q, log_q).item() == pytest.approx(0, abs=1e-15)
    assert divergences(0.5)[name](log_q, log_p).item() > 1e-5
