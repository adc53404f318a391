"""Operations that move numbers about and change none: reshape, transpose, repeat, join.

Their gradients move back the same way. NumPy answers the first three with views, where it can: no number is copied.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vesalius.foundations.autograd.operation import Numeric, Operation, Vjp

RESHAPE = Operation(
    "reshape", lambda x, shape: np.reshape(x, shape), (Vjp(lambda g, call: np.reshape(g, call.shapes[0])),)
)
TRANSPOSE = Operation(
    "transpose",
    lambda x, axes: np.transpose(x, axes),
    (Vjp(lambda g, call: np.transpose(g, np.argsort(call.options["axes"]))),),
)
BROADCAST_TO = Operation("broadcast_to", lambda x, shape: np.broadcast_to(x, shape), (Vjp(lambda g, _: g),))
"""The engine sums what was repeated."""


CAST = Operation("cast", lambda x, dtype: x.astype(dtype), (Vjp(lambda g, _: g),))
"""The engine gives a gradient its input's type."""


def reshape(x: Numeric, shape: int | Sequence[int]) -> Numeric:
    return RESHAPE(x, shape=shape)


def transpose(x: Numeric, axes: Sequence[int] | None = None) -> Numeric:
    """The axes in this order; without one, reversed."""
    order = range(x.ndim)[::-1] if axes is None else axes
    return TRANSPOSE(x, axes=tuple(axis % x.ndim for axis in order))


def swapaxes(x: Numeric, axis1: int, axis2: int) -> Numeric:
    axes = list(range(x.ndim))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return transpose(x, axes)


def moveaxis(x: Numeric, source: int, destination: int) -> Numeric:
    axes = list(range(x.ndim))
    moved = axes.pop(source)
    axes.insert(destination % x.ndim, moved)
    return transpose(x, axes)


def expand_dims(x: Numeric, axis: int) -> Numeric:
    place = axis % (x.ndim + 1)
    return reshape(x, (*x.shape[:place], 1, *x.shape[place:]))


def squeeze(x: Numeric, axis: int) -> Numeric:
    """ValueError where the axis holds more than one number."""
    if x.shape[axis] != 1:
        raise ValueError(f"squeeze drops axes of size 1, got axis {axis} of shape {x.shape}")
    place = axis % x.ndim
    return reshape(x, (*x.shape[:place], *x.shape[place + 1 :]))


def broadcast_to(x: Numeric, shape: Sequence[int]) -> Numeric:
    return BROADCAST_TO(x, shape=tuple(shape))


def concatenate(parts: Sequence[Numeric], axis: int = 0) -> Numeric:
    """Each part gets back the stretch of the gradient that it became."""
    ends = np.cumsum([part.shape[axis] for part in parts]).tolist()
    stretches = [slice(end - part.shape[axis], end) for end, part in zip(ends, parts, strict=True)]

    def rule_of(stretch: slice) -> Callable[..., Numeric]:
        return lambda g, _: g[(slice(None),) * (axis % g.ndim) + (stretch,)]

    rules = tuple(Vjp(rule_of(stretch)) for stretch in stretches)
    return Operation("concatenate", lambda *arrays: np.concatenate(arrays, axis), rules)(*parts)


def stack(parts: Sequence[Numeric], axis: int = 0) -> Numeric:
    return concatenate([expand_dims(part, axis) for part in parts], axis)


FUNCTIONS: dict[Callable[..., Any], Callable[..., Numeric]] = {
    np.reshape: reshape,
    np.transpose: transpose,
    np.swapaxes: swapaxes,
    np.moveaxis: moveaxis,
    np.expand_dims: expand_dims,
    np.squeeze: squeeze,
    np.broadcast_to: broadcast_to,
    np.concatenate: concatenate,
    np.stack: stack,
}
