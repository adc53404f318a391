"""Automatic differentiation of single numbers: all of backpropagation in one sitting.

Computing with `Value`s leaves a record: each result knows the values it was made of and the derivative of itself by
each. The chain rule then runs backwards through the record. A value that is used several times receives a part of its
gradient from each use, so it must have received all of them before it passes its own on: results come before what
they were made of, which is a topological order.

One backward pass costs about as much as the forward pass, however many inputs there are: what makes millions of weights
trainable. Sources: Linnainmaa 1970; Rumelhart, Hinton & Williams 1986. Left out: arrays and higher derivatives, which
the tensor engine has.
"""

import math


class Value:
    """A number that remembers how it was computed.

    >>> x, y = Value(3.0), Value(2.0)
    >>> (x * y + x).backward()
    >>> x.grad, y.grad  # d(xy + x)/dx = y + 1, d/dy = x
    (3.0, 3.0)
    """

    __slots__ = ("data", "grad", "name", "parents")

    def __init__(self, data: float, parents: "tuple[tuple[Value, float], ...]" = (), name: str = "") -> None:
        self.data = data
        self.grad = 0.0
        self.parents = parents  # what this was made of, each with the derivative of this by it
        self.name = name

    def backward(self) -> None:
        """Adds the derivative of this value by every value that it was made of to their `grad`."""
        gradients = {id(self): 1.0}
        for value in reversed(topological_order(self)):
            gradient = gradients[id(value)]
            value.grad += gradient
            for parent, derivative in value.parents:
                gradients[id(parent)] = gradients.get(id(parent), 0.0) + derivative * gradient

    def __add__(self, other: "Value | float") -> "Value":
        other = _value(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)), "+")

    def __mul__(self, other: "Value | float") -> "Value":
        other = _value(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)), "×")

    def __pow__(self, exponent: float) -> "Value":
        """The exponent is a plain number: x^y of two values is (x.log() * y).exp()."""
        slope = exponent * self.data ** (exponent - 1) if exponent else 0.0
        return Value(self.data**exponent, ((self, slope),), f"^{exponent}")

    def exp(self) -> "Value":
        result = math.exp(self.data)
        return Value(result, ((self, result),), "exp")

    def log(self) -> "Value":
        return Value(math.log(self.data), ((self, 1 / self.data),), "log")

    def tanh(self) -> "Value":
        result = math.tanh(self.data)
        return Value(result, ((self, 1 - result * result),), "tanh")

    def relu(self) -> "Value":
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),), "relu")

    def __neg__(self) -> "Value":
        return self * -1.0

    def __sub__(self, other: "Value | float") -> "Value":
        return self + -_value(other)

    def __truediv__(self, other: "Value | float") -> "Value":
        return self * _value(other) ** -1.0

    def __radd__(self, other: float) -> "Value":
        return self + other

    def __rmul__(self, other: float) -> "Value":
        return self * other

    def __rsub__(self, other: float) -> "Value":
        return -self + other

    def __rtruediv__(self, other: float) -> "Value":
        return self**-1.0 * other

    def __repr__(self) -> str:
        return f"Value({self.data}, grad={self.grad})"


def topological_order(result: Value) -> list[Value]:
    """All that `result` was made of, each before whatever was made of it; `result` is last.

    With a stack of its own in place of recursion, whose depth Python limits: a long sum is a deep graph.
    """
    order: list[Value] = []
    seen: set[int] = set()
    stack = [(result, False)]
    while stack:
        value, parents_done = stack.pop()
        if parents_done:
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            stack.append((value, True))
            stack.extend((parent, False) for parent, _ in value.parents)
    return order


def _value(number: Value | float) -> Value:
    return number if isinstance(number, Value) else Value(number)
