"""The scalar engine against torch, on expressions that hypothesis makes up."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesalius.foundations.autograd.scalar import Value, topological_order

UNARY = {
    "neg": (lambda v: -v, lambda t: -t),
    "tanh": (lambda v: v.tanh(), torch.tanh),
    "relu": (lambda v: v.relu(), torch.relu),
    "exp of tanh": (lambda v: v.tanh().exp(), lambda t: t.tanh().exp()),
    "log of square": (lambda v: (v**2 + 1).log(), lambda t: (t**2 + 1).log()),
    "root": (lambda v: (v**2 + 1) ** 0.5, lambda t: (t**2 + 1) ** 0.5),
    "constants": (lambda v: 2 - 3 * v + 1 / (v * v + 1), lambda t: 2 - 3 * t + 1 / (t * t + 1)),
}
BINARY = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "subtract": (lambda a, b: a - b, lambda a, b: a - b),
    "multiply": (lambda a, b: a.tanh() * b, lambda a, b: a.tanh() * b),
    "divide": (lambda a, b: a / (b * b + 1), lambda a, b: a / (b * b + 1)),
}


@st.composite
def programs(draw) -> list[tuple[str, int, int]]:
    """Steps over three inputs: the name of an operation, and which earlier values it takes."""
    names = draw(st.lists(st.sampled_from([*UNARY, *BINARY]), min_size=1, max_size=12))
    return [(name, draw(st.integers(0, i + 2)), draw(st.integers(0, i + 2))) for i, name in enumerate(names)]


def run(program, values: list, side: int):
    """The last value of a program; side 0 is ours, 1 torch's."""
    for name, first, second in program:
        if name in UNARY:
            values.append(UNARY[name][side](values[first]))
        else:
            values.append(BINARY[name][side](values[first], values[second]))
    return values[-1]


@given(programs(), st.tuples(*[st.floats(-2, 2)] * 3))
def test_values_and_gradients_are_torchs(program, numbers):
    ours = [Value(x) for x in numbers]
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    result, expected = run(program, list(ours), 0), run(program, list(theirs), 1)
    result.backward()
    expected.backward()
    assert result.data == pytest.approx(expected.item(), rel=1e-10, abs=1e-10)
    for value, tensor in zip(ours, theirs, strict=True):
        gradient = 0.0 if tensor.grad is None else tensor.grad.item()
        assert value.grad == pytest.approx(gradient, rel=1e-10, abs=1e-10)


def test_a_value_used_twice_gets_both_gradients():
    x = Value(3.0)
    (x * x).backward()
    assert x.grad == 6.0


def test_gradients_add_up_over_calls():
    x = Value(3.0)
    y = x * 2
    y.backward()
    y.backward()
    assert x.grad == 4.0


def test_a_graph_deeper_than_pythons_recursion_is_walked():
    x = total = Value(1.0)
    for _ in range(20_000):
        total = total + x
    total.backward()
    assert x.grad == 20_001.0


def test_what_a_value_was_made_of_comes_before_it():
    x = Value(2.0)
    y = x.exp() * x
    order = topological_order(y)
    assert order[-1] is y
    for place, value in enumerate(order):
        assert all(parent in order[:place] for parent, _ in value.parents)


def test_a_step_against_the_gradient_fits_a_line():
    slope, offset = Value(0.0), Value(0.0)
    for _ in range(200):
        loss = sum(((slope * x + offset) - (2 * x - 1)) ** 2 for x in (-1.0, 0.0, 1.0, 2.0))
        slope.grad = offset.grad = 0.0
        loss.backward()
        slope.data -= 0.05 * slope.grad
        offset.data -= 0.05 * offset.grad
    assert math.isclose(slope.data, 2, rel_tol=1e-6)
    assert math.isclose(offset.data, -1, rel_tol=1e-6)
