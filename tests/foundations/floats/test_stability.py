"""Stable forms against torch and SciPy; unstable ones against their own failures; what loss scaling saves."""

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vesalius.foundations.floats.format import FORMATS
from vesalius.foundations.floats.rounding import round_to
from vesalius.foundations.floats.stability import (
    largest_safe_scale,
    stable_log_softmax,
    stable_log_sum_exp,
    stable_softmax,
    survive,
    unstable_log_softmax,
    unstable_log_sum_exp,
    unstable_softmax,
)

ROWS = hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-1e4, 1e4))
SMALL = hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(-50, 50))


@given(ROWS)
def test_stable_forms_are_torchs_and_scipys(x):
    np.testing.assert_allclose(stable_softmax(x), torch.softmax(torch.from_numpy(x), -1).numpy(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(stable_log_sum_exp(x), scipy.special.logsumexp(x, -1), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(stable_log_softmax(x), scipy.special.log_softmax(x, -1), rtol=1e-10, atol=1e-10)


@given(SMALL)
def test_both_forms_agree_while_nothing_overflows(x):
    np.testing.assert_allclose(unstable_softmax(x), stable_softmax(x), rtol=1e-10)
    np.testing.assert_allclose(unstable_log_sum_exp(x), stable_log_sum_exp(x), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(unstable_log_softmax(x), stable_log_softmax(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "logit"), [(np.float16, 12), (np.float32, 89), (np.float64, 710)])
def test_the_textbooks_formula_overflows_where_the_exponential_does(dtype, logit):
    x = np.array([logit, 0], dtype)
    assert np.isnan(unstable_softmax(x)[0])
    assert unstable_log_sum_exp(x) == np.inf
    assert stable_softmax(x)[0] == 1
    assert stable_log_sum_exp(x) == logit
    assert unstable_log_softmax(np.array([2 * logit, 0], dtype))[1] == -np.inf
    assert stable_log_softmax(np.array([2 * logit, 0], dtype))[1] == -2 * logit


def test_scaling_saves_what_float16_loses():
    """Log-normal gradients around 2^-26, as in section 3.2 of the paper: most are below float16's smallest number."""
    gradients = 2.0 ** np.random.default_rng(0).normal(-26, 4, 10_000)
    plain, scaled = (survive(gradients, FORMATS["fp16"], scale) for scale in (1.0, 2.0**12))
    assert plain.zero > 0.5
    assert scaled.zero < 0.01
    assert plain.beyond == scaled.beyond == 0
    assert survive(gradients, FORMATS["bf16"]).zero == 0


@given(st.integers(0, 1000), st.integers(-30, 10))
def test_fractions_are_counts_of_float16_casts(seed, scale):
    gradients = np.random.default_rng(seed).normal(size=200) * 1e-3
    with np.errstate(over="ignore"):
        cast = np.abs((gradients * 2.0**scale).astype(np.float16))
    result = survive(gradients, FORMATS["fp16"], 2.0**scale)
    assert result.zero == np.mean(cast == 0)
    assert result.subnormal == np.mean((cast > 0) & (cast < np.finfo(np.float16).tiny))


@given(hnp.arrays(np.float64, 5, elements=st.floats(1e-10, 1e10)))
def test_the_largest_safe_scale_is_safe_and_twice_it_is_not(gradients):
    format = FORMATS["fp16"]
    scale = largest_safe_scale(gradients, format)
    assert np.isfinite(round_to(gradients * scale, format)).all()
    assert gradients.max() * 2 * scale > format.largest


def test_no_gradients_are_refused():
    with pytest.raises(ValueError, match="no gradient that is not 0"):
        survive(np.zeros(3), FORMATS["fp16"])
    with pytest.raises(ValueError, match="must be finite and above 0"):
        largest_safe_scale(np.zeros(3), FORMATS["fp16"])
