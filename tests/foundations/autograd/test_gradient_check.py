"""The check itself: it passes right gradients and catches wrong ones."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from vesalius.foundations.autograd.gradient_check import check_gradients, numerical_gradient
from vesalius.foundations.autograd.operation import Operation, Vjp

WRONG = Operation("wrong", np.exp, (Vjp(lambda g, _, x: g * x, (0,)),))


def test_a_wrong_rule_is_caught():
    with pytest.raises(ValueError, match="gradient of input 0 is off by"):
        check_gradients(lambda x: WRONG(x).sum(), [np.array([1.0, 2.0])])


def test_the_wrong_input_is_named():
    with pytest.raises(ValueError, match="gradient of input 1"):
        check_gradients(lambda x, y: (x * WRONG(y)).sum(), [np.array([1.0]), np.array([2.0])])


def test_a_right_rule_passes_with_about_ten_digits():
    assert check_gradients(lambda x: np.exp(x).sum(), [np.array([1.0, -2.0])]) < 1e-9


def test_numerical_gradients_are_scipys():
    x = np.array([0.5, -1.5, 2.0])
    ours = numerical_gradient(lambda x: (np.sin(x) * x).sum(), [x], 0)
    expected = approx_fprime(x, lambda x: (np.sin(x) * x).sum())
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_inputs_are_left_as_they_were():
    x = np.array([1.0, 2.0])
    numerical_gradient(lambda x: (x * x).sum(), [x], 0)
    assert x.tolist() == [1.0, 2.0]
