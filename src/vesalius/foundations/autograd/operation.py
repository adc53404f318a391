"""What an operation is: how its value comes about, and how a gradient passes back through it.

A gradient passes back by vector-Jacobian products: from g = d loss / d out the rule of one input gives
d loss / d input = g · (d out / d input), without ever building the Jacobian. Rules are written in NumPy. Called with
arrays they compute; called with tensors, whose NumPy calls are recorded in turn (NEP 13 and NEP 18, see tensor.py),
they make a gradient that can itself be differentiated. So one rule an input is enough for derivatives of all orders.

A rule names what it wants to have kept until then, and nothing else is: a sum keeps nothing, a product each other
factor, exp its own result. Source: Griewank & Walther 2008, chapters 3 and 4.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numeric: TypeAlias = Any
"""An array, or a tensor: rules are written for both."""

OUT = -1
"""In the place of an input's number: the operation's own result."""


class Call(Protocol):
    """What a rule may ask about the call that it differentiates without anything being kept for it."""

    shapes: tuple[tuple[int, ...], ...]  # of the inputs
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Vjp:
    """One input's rule: `rule(g, call, *saved)` with the inputs (or OUT) that `saves` names, in its order.

    The result may be wider than the input where NumPy broadcast it: the engine sums what was broadcast.
    """

    rule: Callable[..., Numeric]
    saves: tuple[int, ...] = ()


class Recorder(ABC):
    """What watches the operations that it takes part in: a tensor."""

    __slots__ = ()

    @abstractmethod
    def record(self, operation: "Operation", inputs: tuple[Numeric, ...], options: Mapping[str, Any]) -> Any:
        """The operation's result, and a note of where it came from."""


@dataclass(frozen=True)
class Operation:
    """`forward(*arrays, **options)`, and a rule for each input; None for those without a derivative."""

    name: str
    forward: Callable[..., NDArray[Any]]
    vjps: tuple[Vjp | None, ...]

    def __call__(self, *inputs: Numeric, **options: Any) -> Numeric:
        """Of arrays alone, an array. With a tensor among them, a tensor that remembers."""
        for value in inputs:
            if isinstance(value, Recorder):
                return value.record(self, inputs, options)
        return self.forward(*inputs, **options)


def unbroadcast(gradient: Numeric, shape: tuple[int, ...]) -> Numeric:
    """Sums a gradient over the axes along which an input of `shape` was repeated.

    >>> unbroadcast(np.ones((2, 3)), (3,)).tolist()
    [2.0, 2.0, 2.0]
    """
    if gradient.shape == shape:
        return gradient
    new = gradient.ndim - len(shape)
    repeated = [new + i for i, size in enumerate(shape) if size == 1 != gradient.shape[new + i]]
    return np.reshape(np.sum(gradient, axis=(*range(new), *repeated)), shape)
