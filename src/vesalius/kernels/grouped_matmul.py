"""The product of a mixture of experts: rows stand in groups, and each group has its own matrix.

Gale et al. 2022 (MegaBlocks), arXiv:2211.15841, section 4: sorting tokens by expert makes an expert one dense product
over neighbouring rows, so no row is padded, dropped or visited alone. A group may be empty. Left out: one kernel for
all groups on GPUs whose count of rows never reaches the host (torch.nn.functional.grouped_mm, where it is built for the
device).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

GroupedMatmul = Callable[[Tensor, Tensor, Tensor], Tensor]


def reference(x: Tensor, weight: Tensor, sizes: Tensor) -> Tensor:
    """x (M, D) with the rows of group 0 first, weight (N, F, D), sizes (N,) int64 of sum M -> (M, F) = row · matrixᵀ.

    ValueError where the shapes do not fit.

    >>> rows, matrices = torch.ones(3, 1), torch.tensor([[[1.0]], [[5.0]], [[7.0]]])
    >>> reference(rows, matrices, torch.tensor([2, 0, 1])).flatten()
    tensor([1., 1., 7.])
    """
    _check(x, weight, sizes)
    return torch.cat([rows @ matrix.T for rows, matrix in zip(x.split(sizes.tolist()), weight, strict=True)])


class _Sliced(torch.autograd.Function):
    """Every product is written where its result belongs, and empty groups cost nothing.

    With Y = X Wᵀ in each group:  dX = dY W,  dW = dYᵀ X.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = list(_groups(sizes))
        out = x.new_empty(x.shape[0], weight.shape[1])
        for group, rows in ctx.groups:
            torch.mm(x[rows], weight[group].T, out=out[rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for group, rows in ctx.groups:
            if grad_x is not None:
                torch.mm(grad[rows], weight[group], out=grad_x[rows])
            if grad_weight is not None:
                torch.mm(grad[rows].T, x[rows], out=grad_weight[group])
        return grad_x, grad_weight, None


def sliced(x: Tensor, weight: Tensor, sizes: Tensor) -> Tensor:
    """The same as `reference`, with one product for each group that has rows, written into one output."""
    _check(x, weight, sizes)
    return _Sliced.apply(x.contiguous(), weight, sizes)


def batched(x: Tensor, weight: Tensor, sizes: Tensor) -> Tensor:
    """The same as `reference` by one batched product, every group padded with zeros to the largest: for even groups."""
    _check(x, weight, sizes)
    if not len(x):
        return reference(x, weight, sizes)
    group = torch.repeat_interleave(torch.arange(len(sizes), device=x.device), sizes, output_size=len(x))  # (M,)
    place = torch.arange(len(x), device=x.device) - (sizes.cumsum(0) - sizes)[group]  # (M,) within the group
    padded = x.new_zeros(len(sizes), int(sizes.max()), x.shape[1]).index_put((group, place), x)
    return torch.bmm(padded, weight.mT)[group, place]


IMPLS: dict[str, GroupedMatmul] = {"reference": reference, "sliced": sliced, "batched": batched}


def grouped_matmul(x: Tensor, weight: Tensor, sizes: Tensor, impl: str | None = None) -> Tensor:
    """The grouped product by the implementation named, or else by `sliced`; in autocast's dtype where that is on."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    return IMPLS[impl or "sliced"](x, weight, sizes)


def _groups(sizes: Tensor) -> Iterator[tuple[int, slice]]:
    """Each group that has rows, and where they stand."""
    start = 0
    for group, size in enumerate(sizes.tolist()):
        if size:
            yield group, slice(start, start + size)
        start += size


def _check(x: Tensor, weight: Tensor, sizes: Tensor) -> None:
    if x.ndim != 2 or weight.ndim != 3 or x.shape[1] != weight.shape[2] or sizes.shape != weight.shape[:1]:
        raise ValueError(
            f"expected rows (M, D), matrices (N, F, D) and sizes (N,), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)} and {tuple(sizes.shape)}"
        )
