"""Correlation equals scipy's, and a model that likes length is found out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from vesalius.evals.length_bias import correlation, length_bias


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=30))
def test_correlation_equals_scipys(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    if len({*first}) == 1 or len({*second}) == 1:
        assert correlation(first, second) is None
    else:
        assert correlation(first, second) == pytest.approx(pearsonr(first, second).statistic, abs=1e-9)


def test_a_model_that_pays_for_length_prefers_the_longer_answer_whichever_is_better() -> None:
    lengths = np.array([[5, 9], [8, 3], [4, 6], [7, 2]])
    found = length_bias(lengths * 0.1, lengths)
    assert found.correlation == pytest.approx(1.0)
    assert (found.longer_preferred, found.longer_better, found.pairs) == (1.0, 0.5, 4)


def test_answers_of_one_length_tell_nothing_and_ties_count_half() -> None:
    assert length_bias([[1, 0]], [[5, 5]]).longer_preferred is None
    found = length_bias([[1, 1], [2, 0]], [[5, 4], [4, 4]])
    assert (found.longer_preferred, found.longer_better, found.pairs) == (0.5, 1.0, 1)


def test_accuracy_is_told_apart_by_which_answer_is_longer() -> None:
    rewards = [[2, 1], [1, 3], [4, 2], [1, 1], [5, 0]]
    lengths = [[9, 4], [8, 3], [2, 6], [1, 7], [4, 4]]
    found = length_bias(rewards, lengths)
    assert (found.accuracy_longer, found.accuracy_shorter) == (0.5, 0.75)
    assert found.margin_correlation == pytest.approx(pearsonr([1, -2, 2, 0, 5], [5, 5, -4, -6, 0]).statistic)
    alike = length_bias([[1, 0]], [[2, 2]])
    assert (alike.accuracy_longer, alike.accuracy_shorter, alike.margin_correlation) == (None, None, None)
