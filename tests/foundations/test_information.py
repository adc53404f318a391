"""Information measures against SciPy and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vesalius.foundations.information import bits_per_byte, cross_entropy, entropy, kl_divergence, perplexity

WEIGHTS = hnp.arrays(np.float64, (3, 7), elements=st.floats(0.01, 1.0))


def normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(-1, keepdims=True)


@given(WEIGHTS)
def test_entropy_is_scipys(weights):
    p = normalised(weights)
    np.testing.assert_allclose(entropy(p), scipy.stats.entropy(p, axis=-1), rtol=1e-13)


@given(WEIGHTS, WEIGHTS)
def test_kl_divergence_is_scipys(p_weights, q_weights):
    p, q = normalised(p_weights), normalised(q_weights)
    np.testing.assert_allclose(kl_divergence(p, q), scipy.stats.entropy(p, q, axis=-1), rtol=1e-12, atol=1e-14)


@given(WEIGHTS, WEIGHTS)
def test_cross_entropy_is_entropy_plus_kl_divergence(p_weights, q_weights):
    p, q = normalised(p_weights), normalised(q_weights)
    np.testing.assert_allclose(cross_entropy(p, q), entropy(p) + kl_divergence(p, q), rtol=1e-13)


def test_what_never_happens_costs_nothing():
    assert entropy([0.5, 0.5, 0.0]) == pytest.approx(math.log(2), rel=1e-15)
    assert kl_divergence([1.0, 0.0], [0.5, 0.5]) == pytest.approx(math.log(2), rel=1e-15)


def test_ruling_out_what_happens_costs_infinitely_much():
    assert cross_entropy([0.5, 0.5], [1.0, 0.0]) == math.inf
    assert kl_divergence([0.5, 0.5], [1.0, 0.0]) == math.inf


def test_values_that_are_no_distribution_are_refused():
    with pytest.raises(ValueError, match="q must hold probabilities that sum to 1"):
        cross_entropy([0.5, 0.5], [0.5, 0.6])
    with pytest.raises(ValueError, match="p must hold probabilities"):
        entropy([1.5, -0.5])


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    assert perplexity(float(entropy(np.full(50, 1 / 50)))) == pytest.approx(50, rel=1e-13)


def test_a_uniform_model_over_bytes_costs_eight_bits_each():
    assert bits_per_byte(3 * math.log(256), 3) == pytest.approx(8.0, rel=1e-15)


def test_bits_per_byte_of_no_text_is_refused():
    with pytest.raises(ValueError, match="needs some text, got 0 bytes"):
        bits_per_byte(1.0, 0)
