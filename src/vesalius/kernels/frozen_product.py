"""The product with a frozen matrix that is kept small: x Wᵀ, some rows of W as floats at a time, forward and backward.

The float matrix never exists as a whole, and nothing of x is kept: a frozen weight wants no gradient, and the gradient
of x is the other product, ∂x = ∂y W, of rows that are made again. So a layer costs the memory of its packed weights,
however many rows x has. Dettmers et al. 2023 (QLoRA), arXiv:2305.14314, equation 5.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vesalius.kernels.linear import linear

VALUES_AT_ONCE = 1 << 20
"""How many weights are floats at one time."""


class FrozenMatrix(Protocol):
    """(rows, columns) of weights that become floats when they are asked for."""

    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...

    def dequantise(self, first: int = 0, last: int | None = None) -> Tensor:
        """Rows first to last - 1 as float32."""
        ...


M = TypeVar("M", bound=FrozenMatrix)


def by_rows(x: Tensor, matrix: FrozenMatrix) -> Tensor:
    """x (…, columns) -> (…, rows) in x's dtype."""
    parts = [linear(x, matrix.dequantise(*some).to(x.dtype)) for some in _some_rows(matrix)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def _some_rows(matrix: FrozenMatrix) -> list[tuple[int, int]]:
    """(first, behind the last) of each stretch of rows, at least one."""
    count = max(1, VALUES_AT_ONCE // matrix.columns)
    return [(first, min(matrix.rows, first + count)) for first in range(0, max(1, matrix.rows), count)]


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Any, product: Callable[[Tensor, Any], Tensor]) -> Tensor:
        ctx.matrix, ctx.dtype = matrix, x.dtype
        return product(x, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        matrix: FrozenMatrix = ctx.matrix
        total: Tensor | None = None
        for first, last in _some_rows(matrix):
            part = linear(grad[..., first:last], matrix.dequantise(first, last).to(grad.dtype).T)
            total = part if total is None else total.float() + part
        assert total is not None, "there is at least one stretch"
        return total.to(ctx.dtype), None, None


def frozen_product(x: Tensor, matrix: M, product: Callable[[Tensor, M], Tensor] = by_rows) -> Tensor:
    """x (…, columns) -> (…, rows) by `product`, with the gradient of x by the float matrix, some rows at a time."""
    return _Frozen.apply(x, matrix, product)
