"""Choosing numbers by place, and its mirror image, putting numbers in places.

Reading x[index] and adding into zeros at an index are transposes of one another, so each is the gradient of the other.
An index may name a place twice: both readings then send gradient there, and it adds up. An embedding is exactly that,
rows of a matrix chosen by token.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vesalius.foundations.autograd.operation import Numeric, Operation, Vjp


def _scattered(g: NDArray[Any], index: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    out = np.zeros(shape, g.dtype)
    if _is_basic(index):
        out[index] = g
    elif isinstance(index, np.ndarray) and index.dtype.kind in "iu" and index.size:
        _add_rows(out, index.astype(np.intp) % len(out), g)
    else:
        np.add.at(out, index, g)
    return out


def _is_basic(index: Any) -> bool:
    """Whether an index is made of numbers and slices alone, and so names no place twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, int | np.integer | slice) for part in parts)


def _add_rows(out: NDArray[Any], rows: NDArray[Any], g: NDArray[Any]) -> None:
    """out[row] += g for each row of `rows`. Sorted first, so that the numbers of one row are added up in one run."""
    rows, g = rows.reshape(-1), g.reshape(rows.size, *out.shape[1:])
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    out[ordered[starts]] = np.add.reduceat(g[order], starts, axis=0)


GETITEM: Operation = Operation(
    "getitem",
    lambda x, index: x[index],
    (Vjp(lambda g, call: SCATTER(g, index=call.options["index"], shape=call.shapes[0])),),
)
SCATTER: Operation = Operation("scatter", _scattered, (Vjp(lambda g, call: GETITEM(g, index=call.options["index"])),))
"""Zeros of a shape, to which g is added at an index."""


def _put(x: NDArray[Any], value: NDArray[Any], index: Any) -> NDArray[Any]:
    out = x.copy()
    out[index] = value
    return out


PUT: Operation = Operation(
    "setitem",
    _put,
    (
        Vjp(lambda g, call: PUT(g, np.zeros((), g.dtype), index=call.options["index"])),
        Vjp(lambda g, call: GETITEM(g, index=call.options["index"])),
    ),
)
"""x with a value at an index. What it replaced has no gradient any more."""


def embedding(weight: Numeric, ids: NDArray[np.integer]) -> Numeric:
    """weight (V, D), ids (…) of any integer type -> (…, D). ValueError where an id is outside the vocabulary."""
    if ids.size and not 0 <= ids.min() <= ids.max() < len(weight):
        raise ValueError(f"ids must be 0 to {len(weight) - 1}, got {ids.min()} to {ids.max()}")
    return GETITEM(weight, index=ids)


def one_hot(ids: NDArray[np.integer], size: int, dtype: DTypeLike) -> NDArray[Any]:
    """ids (N,) -> (N, size): 1 at each id, 0 elsewhere."""
    out = np.zeros((len(ids), size), dtype)
    out[np.arange(len(ids)), ids] = 1
    return out
