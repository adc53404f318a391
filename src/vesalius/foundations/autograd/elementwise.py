"""Operations on each number by itself, with NumPy's broadcasting, and their derivatives.

Where a derivative does not exist, the choice is torch's: |x|, relu and clipping have slope 0 at the kink, and a tie of
maximum or minimum is shared by halves.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from vesalius.foundations.autograd.operation import OUT, Numeric, Operation, Vjp

GELU_SLOPE, GELU_CUBE = 2 * np.sqrt(2 / np.pi).item(), 0.044715
"""Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2; twice their √(2/π) since (1 + tanh u) / 2 = sigmoid(2u)."""

ADD = Operation("add", np.add, (Vjp(lambda g, _: g), Vjp(lambda g, _: g)))
SUBTRACT = Operation("subtract", np.subtract, (Vjp(lambda g, _: g), Vjp(lambda g, _: -g)))
MULTIPLY = Operation("multiply", np.multiply, (Vjp(lambda g, _, b: g * b, (1,)), Vjp(lambda g, _, a: g * a, (0,))))
DIVIDE = Operation(
    "divide", np.divide, (Vjp(lambda g, _, b: g / b, (1,)), Vjp(lambda g, _, out, b: -g * out / b, (OUT, 1)))
)
NEGATIVE = Operation("negative", np.negative, (Vjp(lambda g, _: -g),))
EXP = Operation("exp", np.exp, (Vjp(lambda g, _, out: g * out, (OUT,)),))
EXPM1 = Operation("expm1", np.expm1, (Vjp(lambda g, _, out: g * (out + 1), (OUT,)),))
LOG = Operation("log", np.log, (Vjp(lambda g, _, x: g / x, (0,)),))
LOG1P = Operation("log1p", np.log1p, (Vjp(lambda g, _, x: g / (1 + x), (0,)),))
SQRT = Operation("sqrt", np.sqrt, (Vjp(lambda g, _, out: g / (2 * out), (OUT,)),))
SQUARE = Operation("square", np.square, (Vjp(lambda g, _, x: g * (2 * x), (0,)),))
SIN = Operation("sin", np.sin, (Vjp(lambda g, _, x: g * np.cos(x), (0,)),))
COS = Operation("cos", np.cos, (Vjp(lambda g, _, x: -g * np.sin(x), (0,)),))
TANH = Operation("tanh", np.tanh, (Vjp(lambda g, _, out: g * (1 - out * out), (OUT,)),))
ABSOLUTE = Operation("absolute", np.absolute, (Vjp(lambda g, _, x: g * np.sign(x), (0,)),))


def _base_rule(g: Numeric, _: Any, a: Numeric, b: Numeric) -> Numeric:
    """b a^(b-1), and 0 where b is 0: there a^b is 1 whatever a is, while 0^-1 would make it 0 × ∞."""
    constant = np.equal(b, 0)
    return np.where(constant, 0, g * b * np.power(a, np.where(constant, 1, b - 1)))


def _exponent_rule(g: Numeric, _: Any, a: Numeric, out: Numeric) -> Numeric:
    """a^b log a, and 0 at a = 0, where 0^b stays 0."""
    zero = np.equal(a, 0)
    return np.where(zero, 0, g * out * np.log(np.where(zero, 1, a)))


POWER = Operation("power", np.power, (Vjp(_base_rule, (0, 1)), Vjp(_exponent_rule, (0, OUT))))


def power(base: Numeric, exponent: Numeric) -> Numeric:
    """base^exponent; squares are taken as such, which is twenty times faster than powers."""
    return SQUARE(base) if isinstance(exponent, int | float) and exponent == 2 else POWER(base, exponent)


def _share(g: Numeric, chosen: Numeric, other: Numeric) -> Numeric:
    """g where the first was chosen, half of it where both are the same."""
    return g * np.where(np.equal(chosen, other), 0.5, np.greater(chosen, other)).astype(g.dtype)


MAXIMUM = Operation(
    "maximum",
    np.maximum,
    (Vjp(lambda g, _, a, b: _share(g, a, b), (0, 1)), Vjp(lambda g, _, a, b: _share(g, b, a), (0, 1))),
)
MINIMUM = Operation(
    "minimum",
    np.minimum,
    (Vjp(lambda g, _, a, b: _share(g, b, a), (0, 1)), Vjp(lambda g, _, a, b: _share(g, a, b), (0, 1))),
)
WHERE = Operation(
    "where",
    np.where,
    (None, Vjp(lambda g, _, c: np.where(c, g, 0), (0,)), Vjp(lambda g, _, c: np.where(c, 0, g), (0,))),
)
RELU = Operation("relu", lambda x: np.maximum(x, 0), (Vjp(lambda g, _, out: g * np.greater(out, 0), (OUT,)),))


def _sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) by way of tanh, which overflows for no x."""
    out = np.tanh(x * 0.5)
    out *= 0.5
    out += 0.5
    return out


SIGMOID = Operation("sigmoid", _sigmoid, (Vjp(lambda g, _, out: g * (out * (1 - out)), (OUT,)),))


def _silu_rule(g: Numeric, _: Any, x: Numeric) -> Numeric:
    s = SIGMOID(x)
    return g * (s * (1 + x * (1 - s)))


SILU = Operation("silu", lambda x: x * _sigmoid(x), (Vjp(_silu_rule, (0,)),))
"""x sigmoid(x). Elfwing et al. 2017, arXiv:1702.03118."""


def _gelu_gate(x: Numeric) -> Numeric:
    return SIGMOID(x * (GELU_SLOPE + (GELU_SLOPE * GELU_CUBE) * np.square(x)))


def _gelu_rule(g: Numeric, _: Any, x: Numeric) -> Numeric:
    s = _gelu_gate(x)
    slope = GELU_SLOPE + (3 * GELU_SLOPE * GELU_CUBE) * np.square(x)  # of the gate's argument
    return g * (s * (1 + x * slope * (1 - s)))


GELU = Operation("gelu", lambda x: x * _gelu_gate(x), (Vjp(_gelu_rule, (0,)),))
"""GPT-2's approximation of x Φ(x)."""

UFUNCS: dict[np.ufunc, Callable[..., Numeric]] = {
    np.add: ADD,
    np.subtract: SUBTRACT,
    np.multiply: MULTIPLY,
    np.divide: DIVIDE,
    np.negative: NEGATIVE,
    np.exp: EXP,
    np.expm1: EXPM1,
    np.log: LOG,
    np.log1p: LOG1P,
    np.sqrt: SQRT,
    np.square: SQUARE,
    np.sin: SIN,
    np.cos: COS,
    np.tanh: TANH,
    np.absolute: ABSOLUTE,
    np.power: power,
    np.maximum: MAXIMUM,
    np.minimum: MINIMUM,
}
"""What NumPy's element-wise functions become when a tensor is among their arguments."""

STEPS = (np.sign, np.floor, np.ceil, np.equal, np.not_equal, np.greater, np.greater_equal, np.less, np.less_equal)
"""Slope 0 wherever they have one, so of a tensor they give plain arrays."""
