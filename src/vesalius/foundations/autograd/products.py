"""Products of matrices, and Einstein's notation for all of them.

For Y = A B the chain rule gives dA = dY Bᵀ and dB = Aᵀ dY: both are products again, so the backward pass takes twice
the forward pass's time. In Einstein's notation the rule is one line: the gradient of an operand is the same sum with
that operand and the result exchanged.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesalius.foundations.autograd.operation import Call, Numeric, Operation, Vjp

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _turned(x: Numeric) -> Numeric:
    return np.swapaxes(x, -1, -2)


MATMUL = Operation(
    "matmul",
    np.matmul,
    (
        Vjp(lambda g, _, b: np.matmul(g, _turned(b)), (1,)),
        Vjp(lambda g, _, a: np.matmul(_turned(a), g), (0,)),
    ),
)


def matmul(a: Numeric, b: Numeric) -> Numeric:
    """(…, N, K) @ (…, K, M) -> (…, N, M). A vector is a row on the left and a column on the right, as in NumPy."""
    a_shape, b_shape = np.shape(a), np.shape(b)
    if not a_shape or not b_shape:
        raise ValueError(f"matmul takes vectors and matrices, got shapes {a_shape} and {b_shape}: use *")
    if len(a_shape) == 1:
        return np.squeeze(matmul(np.expand_dims(a, 0), b), -1 if len(b_shape) == 1 else -2)
    if len(b_shape) == 1:
        return np.squeeze(matmul(a, np.expand_dims(b, -1)), -1)
    if len(a_shape) > 2 and len(b_shape) == 2:  # one large product is faster than many small ones
        return np.reshape(MATMUL(np.reshape(a, (-1, a_shape[-1])), b), (*a_shape[:-1], b_shape[-1]))
    return MATMUL(a, b)


def _flat(x: Numeric) -> Numeric:
    return np.reshape(x, (-1, x.shape[-1]))


def _affine(x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any]) -> NDArray[Any]:
    out = np.matmul(_flat(x), weight.T)
    out += bias
    return out.reshape(*x.shape[:-1], len(weight))


LINEAR = Operation(
    "linear",
    _affine,
    (
        Vjp(lambda g, call, weight: np.reshape(np.matmul(_flat(g), weight), call.shapes[0]), (1,)),
        Vjp(lambda g, _, x: np.matmul(np.transpose(_flat(g)), _flat(x)), (0,)),
        Vjp(lambda g, _: np.sum(_flat(g), 0)),
    ),
)
"""x (…, D), weight (F, D), bias (F,) -> (…, F): x weightᵀ + bias in one pass over the result."""


def einsum(subscripts: str, *operands: Numeric) -> Numeric:
    """NumPy's and torch's einsum of any number of operands, with "…" and repeated letters.

    ValueError where the subscripts do not fit the operands.

    >>> einsum("ij,jk->ik", np.ones((2, 3)), np.ones((3, 2))).tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    terms, result = _spelled_out(subscripts, [np.shape(operand) for operand in operands])
    terms, operands = _without_repeats(terms, operands)
    equation = f"{','.join(terms)}->{result}"
    rules = tuple(Vjp(_einsum_rule(terms, result, i), _others(len(terms), i)) for i in range(len(terms)))
    return Operation("einsum", lambda *arrays: np.einsum(equation, *arrays, optimize=True), rules)(*operands)


def _others(count: int, place: int) -> tuple[int, ...]:
    return tuple(i for i in range(count) if i != place)


def _einsum_rule(terms: Sequence[str], result: str, place: int) -> Callable[..., Numeric]:
    """Exchanges the operand at `place` and the result. Letters that only it has were summed: they are repeated."""
    term = terms[place]
    known = set(result).union(*(terms[i] for i in _others(len(terms), place)))
    reached = "".join(letter for letter in term if letter in known)
    inputs = ",".join([result, *(terms[i] for i in _others(len(terms), place))])

    def rule(g: Numeric, call: Call, *saved: Numeric) -> Numeric:
        pulled, shape = einsum(f"{inputs}->{reached}", g, *saved), call.shapes[place]
        sizes = dict(zip(reached, pulled.shape, strict=True))
        pulled = np.reshape(pulled, tuple(sizes.get(letter, 1) for letter in term))
        full = tuple(max(sizes.get(letter, 1), size) for letter, size in zip(term, shape, strict=True))
        return np.broadcast_to(pulled, full)

    return rule


def _spelled_out(subscripts: str, shapes: Sequence[tuple[int, ...]]) -> tuple[list[str], str]:
    """One term an operand, and the result's: each "…" as letters of its own, a missing result made explicit."""
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"einsum {subscripts!r} names {len(terms)} operands, got {len(shapes)}")
    spare = [letter for letter in LETTERS if letter not in subscripts]
    widths = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)]
    for term, width, shape in zip(terms, widths, shapes, strict=True):
        if width < 0 or (width and "..." not in term):
            raise ValueError(f"einsum {subscripts!r}: {term!r} does not fit an operand of shape {shape}")
    rest = "".join(spare[: max(widths)])
    terms = [term.replace("...", rest[len(rest) - width :]) for term, width in zip(terms, widths, strict=True)]
    if not arrow:
        letters = "".join(terms)
        result = "..." + "".join(sorted(x for x in set(letters) - set(rest) if letters.count(x) == 1))
    return terms, result.replace("...", rest)


def _without_repeats(terms: list[str], operands: Sequence[Numeric]) -> tuple[list[str], tuple[Numeric, ...]]:
    """A letter twice in one term takes a diagonal: the same as two letters and an identity matrix between them."""
    spare = iter([letter for letter in LETTERS if letter not in "".join(terms)])
    single: list[str] = []
    diagonals: list[tuple[str, Numeric]] = []
    for term, operand in zip(terms, operands, strict=True):
        letters: list[str] = []
        for letter, size in zip(term, np.shape(operand), strict=True):
            if letter in letters:
                twin = next(spare)
                diagonals.append((letter + twin, np.eye(size, dtype=operand.dtype)))
                letter = twin
            letters.append(letter)
        single.append("".join(letters))
    return [*single, *(term for term, _ in diagonals)], tuple(chain(operands, (eye for _, eye in diagonals)))


FUNCTIONS: dict[Callable[..., Any], Callable[..., Numeric]] = {np.einsum: einsum, np.matmul: matmul}
