"""The closed form, against counting and against numbers of the paper."""

import pytest
import torch

from vesalius.infer.speculative.closed_form import expected_tokens, speedup


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("gamma", [0, 1, 5])
def test_tokens_of_a_step_are_those_that_stand_and_one_more(alpha, gamma):
    assert expected_tokens(alpha, gamma) == pytest.approx(sum(alpha**i for i in range(gamma + 1)))


def test_it_is_what_independent_tries_give():
    tries = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    kept = tries.cumprod(1).sum(1)
    assert expected_tokens(0.7, 4) == pytest.approx(float(kept.float().mean()) + 1, abs=0.01)


@pytest.mark.parametrize(
    ("alpha", "gamma", "expected"), [(0.6, 2, 1.96), (0.7, 3, 2.53), (0.8, 2, 2.44), (0.8, 5, 3.69), (0.9, 10, 6.86)]
)
def test_with_a_draft_that_costs_nothing_it_is_table_1_of_the_paper(alpha, gamma, expected):
    assert speedup(alpha, gamma, 0.0) == pytest.approx(expected, abs=0.006)


def test_a_draft_costs_its_share_of_every_token():
    assert speedup(0.0, 4, 0.25) == 0.5
    assert speedup(1.0, 6, 0.25, depth=3) == pytest.approx(4 / 2.5)
