"""Advantages against plain loops over one answer and one token at a time."""

import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.align.policy.advantages import COMPARISONS, gae, whiten

SHAPE = (5, 11)


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards and values (5, 11), and a mask with rows of every kind: whole, with gaps, and empty."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, *SHAPE, generator=generator)
    mask = torch.rand(SHAPE, generator=generator) < 0.6
    mask[0], mask[1] = True, False
    return rewards, values, mask


def plain_gae(rewards: list[float], values: list[float], discount: float, trace: float) -> list[float]:
    """Equation 16 as it is written: the sum over l of (γλ)^l δ_{t+l}."""
    following = [*values[1:], 0.0][: len(values)]
    surprises = [r + discount * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    return [
        sum((discount * trace) ** (i - t) * surprises[i] for i in range(t, len(surprises)))
        for t in range(len(surprises))
    ]


@given(seed=st.integers(0, 1000), discount=st.sampled_from([1.0, 0.9]), trace=st.sampled_from([1.0, 0.95, 0.0]))
@settings(max_examples=40, deadline=None)
def test_gae_equals_the_sum_over_the_actions_that_follow(seed, discount, trace):
    """float32 against float64, 1e-5: sums of at most 11 numbers of size 1."""
    rewards, values, mask = drawn(seed)
    advantages, returns = gae(rewards, values, mask, discount=discount, trace=trace)
    for row in range(SHAPE[0]):
        places = mask[row].nonzero().squeeze(1).tolist()
        expected = plain_gae(rewards[row, places].tolist(), values[row, places].tolist(), discount, trace)
        assert advantages[row, places].tolist() == pytest.approx(expected, abs=1e-5)
        assert returns[row, places].tolist() == pytest.approx(
            [a + v for a, v in zip(expected, values[row, places].tolist(), strict=True)], abs=1e-5
        )
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_gae_without_a_trace_discount_is_the_reward_to_come_less_the_value():
    rewards, values, mask = drawn(0)
    advantages, _ = gae(rewards, values, mask, discount=1.0, trace=1.0)
    to_come = rewards[0].flip(0).cumsum(0).flip(0)
    torch.testing.assert_close(advantages[0], to_come - values[0], atol=1e-5, rtol=0)


def test_whitened_values_have_mean_0_and_variance_1_and_none_elsewhere():
    x, _, mask = drawn(1)
    white = whiten(3 * x + 7, mask)
    assert float(white[mask].mean()) == pytest.approx(0, abs=1e-5)
    assert float(white[mask].var(correction=0)) == pytest.approx(1, abs=1e-4)
    assert not white[~mask].any()
    assert not whiten(x, torch.zeros_like(mask)).any()


def plainly(name: str, groups: list[list[float]]) -> list[list[float]]:
    """What each comparison is, answer by answer."""
    everything = [reward for group in groups for reward in group]
    found: list[list[float]] = []
    for group in groups:
        found.append([])
        for place, reward in enumerate(group):
            others = group[:place] + group[place + 1 :]
            found[-1].append(
                {
                    "batch_mean": lambda r, g, o: r - statistics.fmean(everything),
                    "leave_one_out": lambda r, g, o: r - statistics.fmean(o),
                    "group_mean": lambda r, g, o: r - statistics.fmean(g),
                    "group": lambda r, g, o: (r - statistics.fmean(g)) / (statistics.stdev(g) + 1e-4),
                }[name](reward, group, others)
            )
    return found


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_equal_a_loop_over_answers(name):
    groups = [[1.0, 0.0, 0.0, 1.0], [0.2, 0.9, 0.5, 0.1], [1.0, 1.0, 1.0, 1.0]]
    found = COMPARISONS[name](torch.tensor(groups, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(plainly(name, groups), dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_answers_that_are_all_worth_the_same_have_no_advantage(name):
    assert not COMPARISONS[name](torch.full((3, 4), 0.7, dtype=torch.float64)).abs().gt(1e-12).any()
