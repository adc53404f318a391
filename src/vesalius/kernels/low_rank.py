"""A frozen linear layer and a change of low rank beside it, in one: y = x Wᵀ + b + s · (x Aᵀ) Bᵀ. Hu et al. 2021,
arXiv:2106.09685 (LoRA), section 4.1.

The two products with A and B are small, but written one operation at a time what stands around them is not: the change
is as large as y, scaled in one pass over memory, added in another, and x, which is read twice, has its two gradients
added in a third. Here small products add to what the large one has written. With G = ∂y:

    H = s · G B      ∂x = G W + H A      ∂A = Hᵀ x      ∂B = s · Gᵀ (x Aᵀ)

W and b want no gradient and get none. Left out: dropout before A, several changes of one layer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vesalius.kernels.linear import linear


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """x (…, I), weight (O, I) and bias (O,) frozen, down A (r, I), up B (O, r) -> (…, O)."""
    return F.linear(x, weight, bias) + F.linear(F.linear(x, down), up) * scale


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        y, inner = linear(x, weight, bias), linear(x, down)  # (…, O), (…, r)
        _rows(y).addmm_(_rows(inner), up.T, alpha=scale)
        ctx.save_for_backward(x, weight, down, up, inner)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, inner = ctx.saved_tensors
        wants_x, _, _, wants_down, wants_up, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        rows = _rows(grad)  # (N, O)
        of_inner = (rows @ up).mul_(ctx.scale)  # (N, r)
        grad_x = linear(grad, weight.T) if wants_x else None
        if grad_x is not None:
            _rows(grad_x).addmm_(of_inner, down)
        grad_down = of_inner.T @ _rows(x) if wants_down else None
        grad_up = (rows.T @ _rows(inner)).mul_(ctx.scale) if wants_up else None
        return grad_x, None, None, grad_down, grad_up, None


def _rows(x: Tensor) -> Tensor:
    """(…, C) -> (N, C), the same memory."""
    return x.view(-1, x.shape[-1])


def fused(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """The same as `reference`, with a hand-written backward; under autocast in its type."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, down, up = (tensor.to(dtype) for tensor in (x, weight, down, up))
        bias = None if bias is None else bias.to(dtype)
    return _Fused.apply(x.contiguous(), weight, bias, down, up, scale)


IMPLS = {"reference": reference, "fused": fused}


def low_rank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor,
    up: Tensor,
    scale: float,
    impl: str | None = None,
) -> Tensor:
    """The layer by the implementation named, or else by `fused`; ValueError where the weight wants a gradient."""
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        raise ValueError("the layer beside a change of low rank must be frozen, its weight wants a gradient")
    return IMPLS[impl or "fused"](x, weight, bias, down, up, scale)
