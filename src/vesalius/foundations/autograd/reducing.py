"""Operations that make many numbers one: sums, means, variances, extremes.

The gradient of a sum goes to every summand as it is; that of a maximum to whichever number won, in equal parts where
several did (as torch.amax does). Left out: products over an axis, whose gradient divides by what may be 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vesalius.foundations.autograd.operation import OUT, Call, Numeric, Operation, Vjp

Axis = int | Sequence[int] | None


def _restored(g: Numeric, call: Call) -> Numeric:
    """g with the axes that were reduced away as axes of size 1."""
    shape, axes = call.shapes[0], _axes(call.options["axis"], len(call.shapes[0]))
    return np.reshape(g, tuple(1 if i in axes else size for i, size in enumerate(shape)))


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return tuple(i % ndim for i in ([axis] if isinstance(axis, int) else axis))


SUM = Operation("sum", np.sum, (Vjp(lambda g, call: np.broadcast_to(_restored(g, call), call.shapes[0])),))


def _extreme_rule(g: Numeric, call: Call, x: Numeric, out: Numeric) -> Numeric:
    won = np.equal(x, _restored(out, call)).astype(g.dtype)
    return _restored(g, call) * (won / won.sum(_axes(call.options["axis"], x.ndim), keepdims=True))


MAX = Operation("max", np.max, (Vjp(_extreme_rule, (0, OUT)),))
MIN = Operation("min", np.min, (Vjp(_extreme_rule, (0, OUT)),))


def _cumsum_rule(g: Numeric, call: Call) -> Numeric:
    """Each number is in its own sum and in all later ones."""
    axis = call.options["axis"]
    return np.flip(np.cumsum(np.flip(g, axis), axis), axis)


CUMSUM = Operation("cumsum", np.cumsum, (Vjp(_cumsum_rule),))
FLIP = Operation("flip", np.flip, (Vjp(lambda g, call: np.flip(g, call.options["axis"])),))


def sum_(x: Numeric, axis: Axis = None, *, keepdims: bool = False) -> Numeric:
    return SUM(x, axis=_axes(axis, x.ndim), keepdims=keepdims)


def max_(x: Numeric, axis: Axis = None, *, keepdims: bool = False) -> Numeric:
    return MAX(x, axis=_axes(axis, x.ndim), keepdims=keepdims)


def min_(x: Numeric, axis: Axis = None, *, keepdims: bool = False) -> Numeric:
    return MIN(x, axis=_axes(axis, x.ndim), keepdims=keepdims)


def mean(x: Numeric, axis: Axis = None, *, keepdims: bool = False) -> Numeric:
    return sum_(x, axis, keepdims=keepdims) * (1 / _count(x, axis))


def var(x: Numeric, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Numeric:
    """Σ (x - mean)² / (n - ddof)."""
    centred = x - mean(x, axis, keepdims=True)
    return sum_(np.square(centred), axis, keepdims=keepdims) * (1 / (_count(x, axis) - ddof))


def std(x: Numeric, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Numeric:
    return np.sqrt(var(x, axis, ddof=ddof, keepdims=keepdims))


def cumsum(x: Numeric, axis: int) -> Numeric:
    return CUMSUM(x, axis=axis)


def flip(x: Numeric, axis: int) -> Numeric:
    return FLIP(x, axis=axis)


def _count(x: Numeric, axis: Axis) -> int:
    return math.prod(x.shape[i] for i in _axes(axis, x.ndim))


FUNCTIONS: dict[Callable[..., Any], Callable[..., Numeric]] = {
    np.sum: sum_,
    np.max: max_,
    np.min: min_,
    np.mean: mean,
    np.var: var,
    np.std: std,
    np.cumsum: cumsum,
    np.flip: flip,
}
