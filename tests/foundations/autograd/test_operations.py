"""Every operation against torch: values, gradients and second derivatives, and against finite differences."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F

from vesalius.foundations.autograd.elementwise import GELU, MAXIMUM, RELU, SIGMOID, SILU
from vesalius.foundations.autograd.gradient_check import check_gradients
from vesalius.foundations.autograd.indexing import embedding
from vesalius.foundations.autograd.normalising import (
    LOG_SUM_EXP,
    cross_entropy,
    layer_norm,
    log_softmax,
    softmax,
)
from vesalius.foundations.autograd.products import LINEAR, einsum
from vesalius.foundations.autograd.tensor import Tensor, grad

TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}


class Case(NamedTuple):
    """One call, as ours and as torch's, of the same arrays."""

    ours: Callable
    theirs: Callable
    arrays: list[np.ndarray]


def both(function: Callable, arrays: list[np.ndarray]) -> Case:
    """Where NumPy's and torch's notation agree."""
    return Case(function, function, arrays)


def numbers(shape: tuple[int, ...], seed: int, kind: str = "any") -> np.ndarray:
    """Normal numbers; "positive" and "nonzero" ones keep away from 0."""
    drawn = np.asarray(np.random.default_rng(seed).normal(size=shape))
    away = np.abs(drawn) + 0.3
    return np.asarray({"any": drawn, "positive": away, "nonzero": np.sign(drawn) * away}[kind])


SEEDS = st.integers(0, 2**32 - 1)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=4)

UNARY = {
    "exp": (np.exp, torch.exp, "any"),
    "expm1": (np.expm1, torch.expm1, "any"),
    "log": (np.log, torch.log, "positive"),
    "log1p": (np.log1p, torch.log1p, "positive"),
    "sqrt": (np.sqrt, torch.sqrt, "positive"),
    "square": (np.square, torch.square, "any"),
    "sin": (np.sin, torch.sin, "any"),
    "cos": (np.cos, torch.cos, "any"),
    "tanh": (np.tanh, torch.tanh, "any"),
    "absolute": (np.absolute, torch.abs, "nonzero"),
    "negative": (np.negative, torch.neg, "any"),
    "relu": (RELU, torch.relu, "nonzero"),
    "sigmoid": (SIGMOID, torch.sigmoid, "any"),
    "silu": (SILU, F.silu, "any"),
    "gelu": (GELU, lambda x: F.gelu(x, approximate="tanh"), "any"),
    "cube": (lambda x: x**3, lambda x: x**3, "any"),
    "reflected": (lambda x: 1 - 2 / x, lambda x: 1 - 2 / x, "nonzero"),
    "exponential": (lambda x: np.power(2.5, x), lambda x: torch.pow(2.5, x), "any"),
}
BINARY = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "subtract": (lambda a, b: a - b, lambda a, b: a - b),
    "multiply": (lambda a, b: a * b, lambda a, b: a * b),
    "divide": (lambda a, b: a / b, lambda a, b: a / b),
    "power": (lambda a, b: a**b, lambda a, b: a**b),
    "maximum": (np.maximum, torch.maximum),
    "minimum": (np.minimum, torch.minimum),
    "where": (lambda a, b: np.where(a > b, a * a, b), lambda a, b: torch.where(a > b, a * a, b)),
}
REDUCTIONS = {
    "sum": (np.sum, torch.sum),
    "mean": (np.mean, torch.mean),
    "max": (np.max, torch.amax),
    "min": (np.min, torch.amin),
    "var": (np.var, lambda x, dim, keepdim: torch.var(x, dim, correction=0, keepdim=keepdim)),
    "std": (
        lambda x, axis, keepdims: np.sqrt(np.var(x, axis=axis, keepdims=keepdims) + 0.1),
        lambda x, dim, keepdim: torch.sqrt(torch.var(x, dim, correction=0, keepdim=keepdim) + 0.1),
    ),
}


@st.composite
def elementwise(draw) -> Case:
    seed = draw(SEEDS)
    if draw(st.booleans()):
        ours, theirs, kind = UNARY[draw(st.sampled_from([*UNARY]))]
        return Case(ours, theirs, [numbers(draw(SHAPES), seed, kind)])
    ours, theirs = BINARY[draw(st.sampled_from([*BINARY]))]
    shapes = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3)).input_shapes
    return Case(ours, theirs, [numbers(shape, seed + i, "positive") for i, shape in enumerate(shapes)])


@st.composite
def reductions(draw) -> Case:
    ours, theirs = REDUCTIONS[draw(st.sampled_from([*REDUCTIONS]))]
    shape = draw(hnp.array_shapes(max_dims=4, max_side=4))
    axes = draw(hnp.valid_tuple_axes(len(shape), min_size=1))
    keep = draw(st.booleans())
    return Case(
        lambda x: ours(x, axis=axes, keepdims=keep),
        lambda x: theirs(x, dim=axes, keepdim=keep),
        [numbers(shape, draw(SEEDS))],
    )


@st.composite
def running_sums(draw) -> Case:
    shape = draw(hnp.array_shapes(max_dims=3, max_side=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    x = numbers(shape, draw(SEEDS))
    if draw(st.booleans()):
        return Case(lambda x: np.cumsum(x, axis), lambda x: torch.cumsum(x, axis), [x])
    return Case(lambda x: np.flip(x, axis), lambda x: torch.flip(x, [axis]), [x])


@st.composite
def shapings(draw) -> Case:
    x = numbers(draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=4)), draw(SEEDS))
    axes = draw(st.permutations(range(x.ndim)))
    first, second = axes[:2]
    wide = (2, *x.shape)
    cases = {
        "transpose": Case(lambda x: np.transpose(x, axes), lambda x: x.permute(*axes), [x]),
        "reversed": Case(lambda x: x.T, lambda x: x.permute(*range(x.ndim)[::-1]), [x]),
        "reshape": Case(lambda x: x.reshape(-1, x.shape[first]), lambda x: x.reshape(-1, x.shape[first]), [x]),
        "swapaxes": Case(lambda x: np.swapaxes(x, first, second), lambda x: x.transpose(first, second), [x]),
        "moveaxis": Case(lambda x: np.moveaxis(x, first, second), lambda x: x.movedim(first, second), [x]),
        "expand": Case(lambda x: np.expand_dims(x, first), lambda x: x.unsqueeze(first), [x]),
        "squeeze": Case(
            lambda x: np.squeeze(np.expand_dims(x, first), first), lambda x: x.unsqueeze(first).squeeze(first), [x]
        ),
        "broadcast": Case(lambda x: np.broadcast_to(x, wide), lambda x: x.expand(wide), [x]),
        "concatenate": Case(
            lambda a, b: np.concatenate([a, b, a], first), lambda a, b: torch.cat([a, b, a], first), [x, x + 1]
        ),
        "stack": Case(lambda a, b: np.stack([a, b], first), lambda a, b: torch.stack([a, b], first), [x, x + 1]),
    }
    return cases[draw(st.sampled_from([*cases]))]


@st.composite
def products(draw) -> Case:
    """Matrices with broadcast batches, vectors on either side, and affine maps."""
    n, k, m = (draw(st.integers(1, 4)) for _ in range(3))
    batches = draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, max_side=3)).input_shapes
    seed = draw(SEEDS)
    a, b = numbers((*batches[0], n, k), seed), numbers((*batches[1], k, m), seed + 1)
    vector, weight, bias = numbers((k,), seed + 2), numbers((m, k), seed + 3), numbers((m,), seed + 4)
    cases = [
        both(lambda a, b: a @ b, [a, b]),
        both(lambda a, b: a @ b, [a, numbers((k, m), seed)]),
        both(lambda a, b: a @ b, [vector, b]),
        both(lambda a, b: a @ b, [a, vector]),
        both(lambda a, b: a @ b, [vector, vector + 1]),
        Case(LINEAR, F.linear, [a, weight, bias]),
    ]
    return draw(st.sampled_from(cases))


EQUATIONS = [
    "ij,jk->ik", "ij,jk", "ij,k->j", "bhtd,bhsd->bhts", "...ij,...jk->...ik", "...d,...d->...", "i,j->ij", "ij->ji",
    "ij->", "ij->i", "ij,ij->", "ii->i", "ii->", "iij->j", "ab,bc,cd->ad", "ab,b,c->c", "i,i,i->i", "b...d,dk->bk...",
]  # fmt: skip


@st.composite
def sums_of_products(draw) -> Case:
    equation = draw(st.sampled_from(EQUATIONS))
    sizes = {letter: draw(st.integers(1, 4)) for letter in sorted(set(equation) - set("->.,"))}
    rest = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    terms = equation.partition("->")[0].split(",")
    shapes = []
    for term in terms:
        before, dots, after = term.partition("...")
        shapes.append((*(sizes[x] for x in before), *(rest if dots else ()), *(sizes[x] for x in after)))
    seed = draw(SEEDS)
    return Case(
        lambda *xs: einsum(equation, *xs),
        lambda *xs: torch.einsum(equation, *xs),
        [numbers(shape, seed + i) for i, shape in enumerate(shapes)],
    )


@st.composite
def indexings(draw) -> Case:
    """Any index that NumPy knows: numbers, slices with steps forward, lists with repeats, masks, new axes."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    x = numbers(shape, draw(SEEDS))
    rows = st.integers(-shape[0], shape[0] - 1)
    index = draw(
        st.one_of(
            hnp.basic_indices(shape, allow_newaxis=True).filter(lambda i: not _runs_backwards(i)),
            hnp.arrays(np.int64, hnp.array_shapes(min_side=1, max_dims=2, max_side=4), elements=rows),
            hnp.integer_array_indices(shape),
            hnp.arrays(np.bool_, shape),
        )
    )
    return Case(lambda x: x[index], lambda x: x[_of_torch(index)], [x])


def _runs_backwards(index) -> bool:
    """torch has no slices with negative steps."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, slice) and (part.step or 1) < 0 for part in parts)


def _of_torch(index):
    if isinstance(index, tuple):
        return tuple(map(_of_torch, index))
    return torch.from_numpy(index) if isinstance(index, np.ndarray) else index


@st.composite
def normalisations(draw) -> Case:
    seed = draw(SEEDS)
    x = numbers(draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=2, max_side=5)), seed)
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    weight, bias = numbers(x.shape[-1:], seed + 1), numbers(x.shape[-1:], seed + 2)
    spread = np.sort(x) + np.arange(x.shape[-1])  # rows of nearly equal numbers are divided by nearly nothing
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, x.shape[-1], x.shape[:-1])
    ids = generator.integers(0, len(x), (3, 2)).astype(np.uint8)
    ids_of_torch = torch.from_numpy(ids.astype(np.int64))
    flat = torch.from_numpy(targets).reshape(-1)
    cases = [
        Case(lambda x: softmax(x, axis), lambda x: torch.softmax(x, axis), [x]),
        Case(lambda x: log_softmax(x, axis), lambda x: torch.log_softmax(x, axis), [x]),
        Case(lambda x: LOG_SUM_EXP(x, axis=axis), lambda x: torch.logsumexp(x, axis, keepdim=True), [x]),
        Case(layer_norm, lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), [spread, weight, bias]),
        Case(
            lambda x: cross_entropy(x, targets),
            lambda x: F.cross_entropy(x.reshape(-1, x.shape[-1]), flat),
            [x],
        ),
        Case(
            lambda x: embedding(x, ids),
            lambda x: F.embedding(ids_of_torch, x.reshape(len(x), -1)).reshape(3, 2, *x.shape[1:]),
            [x],
        ),
    ]
    return draw(st.sampled_from(cases))


CASES = {
    "elementwise": elementwise(),
    "reductions": reductions(),
    "running sums": running_sums(),
    "shapings": shapings(),
    "products": products(),
    "einsum": sums_of_products(),
    "indexings": indexings(),
    "normalisations": normalisations(),
}
ANY_CASE = st.one_of(*CASES.values())


def weights_of(shape: tuple[int, ...], dtype) -> np.ndarray:
    """What a loss multiplies an output by, so that no two of its numbers count alike."""
    return np.linspace(0.5, 1.5, int(np.prod(shape)), dtype=dtype).reshape(shape)


def derivatives(case: Case, dtype) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ours and torch's: the value, each gradient of a loss, and each gradient of a loss made of those gradients."""
    tensors = [Tensor(x.astype(dtype), requires_grad=True) for x in case.arrays]
    out = case.ours(*tensors)
    first = grad((out * out * weights_of(out.shape, dtype)).sum(), tensors, create_graph=True)
    loss = sum((g * g * weights_of(g.shape, dtype)).sum() for g in first)
    second = grad(loss, tensors)
    twins = [torch.from_numpy(x.astype(dtype)).requires_grad_() for x in case.arrays]
    expected = case.theirs(*twins)
    twin_loss = (expected * expected * torch.from_numpy(weights_of(tuple(expected.shape), dtype))).sum()
    twin_first = torch.autograd.grad(twin_loss, twins, create_graph=True)
    loss = sum((g * g * torch.from_numpy(weights_of(tuple(g.shape), dtype))).sum() for g in twin_first)
    twin_second = torch.autograd.grad(loss, twins)
    return (
        [x.data for x in (out, *first, *second)],
        [x.detach().numpy() for x in (expected, *twin_first, *twin_second)],
    )


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray], dtype) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        scale = max(1.0, np.abs(other).max(initial=0.0))
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("kind", CASES)
@given(data=st.data())
def test_values_gradients_and_second_derivatives_are_torchs(kind, data):
    assert_same(*derivatives(data.draw(CASES[kind]), np.float64), np.float64)


@pytest.mark.parametrize("kind", CASES)
@given(data=st.data())
def test_values_and_gradients_in_float32_are_torchs(kind, data):
    """Second derivatives are differences of nearly equal numbers: seven digits are too few to compare them."""
    case = data.draw(CASES[kind])
    first = 1 + len(case.arrays)
    ours, theirs = derivatives(case, np.float32)
    assert_same(ours[:first], theirs[:first], np.float32)


@given(ANY_CASE)
def test_gradients_are_what_finite_differences_say(case):
    def loss(*tensors: Tensor) -> Tensor:
        out = case.ours(*tensors)
        return (out * weights_of(out.shape, np.float64)).sum()

    check_gradients(loss, case.arrays)


@given(ANY_CASE)
def test_backward_on_arrays_and_on_tensors_agree(case):
    """The same rules, run plainly and recorded."""
    tensors = [Tensor(x, requires_grad=True) for x in case.arrays]
    plain = grad(case.ours(*tensors).sum(), tensors)
    recorded = grad(case.ours(*tensors).sum(), tensors, create_graph=True)
    for one, other in zip(plain, recorded, strict=True):
        np.testing.assert_allclose(one.data, other.data, rtol=1e-12, atol=1e-12)


@given(SEEDS)
def test_ties_are_shared_as_torch_shares_them(seed):
    """Integers, so that ties, kinks and zero exponents are met."""
    generator = np.random.default_rng(seed)
    a, b = (generator.integers(-1, 2, (3, 4)).astype(np.float64) for _ in range(2))
    pairs = [
        (np.maximum, torch.maximum, [a, b]),
        (np.minimum, torch.minimum, [a, b]),
        (np.abs, torch.abs, [a]),
        (RELU, torch.relu, [a]),
        (lambda x: np.max(x, axis=1), lambda x: torch.amax(x, 1), [a]),
        (lambda a, b: np.abs(a) ** np.abs(b), lambda a, b: torch.abs(a) ** torch.abs(b), [a, b]),
    ]
    for ours, theirs, arrays in pairs:
        tensors = [Tensor(x, requires_grad=True) for x in arrays]
        twins = [torch.from_numpy(x).requires_grad_() for x in arrays]
        gradients = grad(ours(*tensors).sum(), tensors)
        expected = torch.autograd.grad(theirs(*twins).sum(), twins)
        for one, other in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(one.data, other.numpy(), rtol=0, atol=1e-12)


def test_an_operation_of_arrays_gives_an_array():
    assert isinstance(MAXIMUM(np.zeros(2), np.ones(2)), np.ndarray)


def test_losses_of_unlikely_targets_stay_finite():
    """log(softmax) by way of the probability would be log 0."""
    logits = Tensor(np.array([[1000.0, 0.0]]), requires_grad=True)
    loss = cross_entropy(logits, np.array([1]))
    assert loss.item() == 1000.0
    assert grad(loss, [logits])[0].data.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cross_entropy(Tensor(np.zeros((2, 3))), np.array([0, 3])), "targets must be 0 to 2, got 0 to 3"),
        (lambda: cross_entropy(Tensor(np.zeros((2, 3))), np.array([0])), r"must have shape \(2,\)"),
        (lambda: embedding(Tensor(np.zeros((4, 2))), np.array([-1])), "ids must be 0 to 3, got -1 to -1"),
        (lambda: einsum("ij,jk->ik", np.zeros((2, 3))), "names 2 operands, got 1"),
        (lambda: einsum("ij->i", np.zeros(3)), r"'ij' does not fit an operand of shape \(3,\)"),
        (lambda: Tensor(np.zeros(2)) @ Tensor(1.0), "vectors and matrices"),
        (lambda: np.squeeze(Tensor(np.zeros((2, 3))), 0), "axes of size 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
