"""Progress goes from 0 to 1 in whatever the budget counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.train.budget import Budget

BUDGETS = [Budget(steps=10), Budget(tokens=5000), Budget(minutes=0.5)]


@pytest.mark.parametrize("budget", BUDGETS)
def test_half_way(budget):
    assert budget.progress(5, 2500, 15.0) == 0.5


@given(st.sampled_from(BUDGETS), st.floats(0, 1e6), st.floats(0, 1e9), st.floats(0, 1e6))
def test_progress_stays_between_0_and_1(budget, step, tokens, seconds):
    assert 0 <= budget.progress(step, tokens, seconds) <= 1
