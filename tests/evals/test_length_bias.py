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
