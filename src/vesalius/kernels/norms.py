"""RMSNorm and LayerNorm: give every vector the same scale. Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4; Ba et al.
2016, arXiv:1607.06450, eq. 4.

The references compute in float32: squares of bf16 activations lose the small components. The torch paths do the same
inside their fused loops. Left out: the residual add fused into the norm.
"""

from collections.abc import Callable

import torch
from torch import Tensor

RMSNormFunction = Callable[[Tensor, Tensor, float], Tensor]


def reference(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x (…, D) any float dtype, weight (D,) -> (…, D) in x's dtype. ValueError where the widths differ.

    >>> reference(torch.tensor([3.0, 4.0]), torch.ones(2), eps=0.0)
    tensor([0.8485, 1.1314])
    """
    _check(x, weight)
    x32 = x.float()
    rms = x32.pow(2).mean(-1, keepdim=True).add(eps).sqrt()  # (…, 1)
    return (x32 / rms).to(x.dtype) * weight.to(x.dtype)


class _RMSNorm(torch.autograd.Function):
    """One pass forward, and a backward that keeps x and one number a row instead of four intermediates the size of x.

    With n = x / rms and g = grad ⊙ weight:  dx = (g - n · mean(g ⊙ n)) / rms,  dweight = Σ grad ⊙ n.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale.to(x.dtype)).mul_(weight.to(x.dtype))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (grad,) = grads
        x, weight, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        normed = x * scale.to(x.dtype)
        grad_weight = None
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            many = (grad * normed).flatten(0, -2)
            grad_weight = many.sum(0, dtype=scale.dtype).to(weight.dtype)  # not in bf16
        grad_normed = grad * weight.to(x.dtype)
        mean = (grad_normed * normed).mean(-1, keepdim=True)  # (…, 1)
        return grad_normed.addcmul_(normed, mean, value=-1).mul_(scale.to(x.dtype)), grad_weight, None


def fused(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """The same as `reference`, with a hand-written backward."""
    _check(x, weight)
    return _RMSNorm.apply(x, weight, eps)


def by_torch(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """The same as `reference` by torch's own operation, which compilers fuse."""
    _check(x, weight)
    return torch.nn.functional.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


IMPLS: dict[str, RMSNormFunction] = {"reference": reference, "torch": by_torch, "fused": fused}


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, impl: str | None = None) -> Tensor:
    """RMSNorm by the implementation named, or else the fastest here: `fused` for eager training, `torch` otherwise."""
    training = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return IMPLS[impl or ("fused" if training else "torch")](x, weight, eps)


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """x (…, D), weight (D,), bias (D,) or None -> (…, D): zero mean, unit variance (population), scaled and shifted."""
    _check(x, weight)
    x32 = x.float()
    centred = x32 - x32.mean(-1, keepdim=True)
    normed = (centred * centred.pow(2).mean(-1, keepdim=True).add(eps).rsqrt()).to(x.dtype) * weight.to(x.dtype)
    return normed if bias is None else normed + bias.to(x.dtype)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5, impl: str | None = None) -> Tensor:
    """LayerNorm; torch's native one is fused already, so it is the default."""
    return LAYER_NORM_IMPLS[impl or "torch"](x, weight, bias, eps)


def _layer_norm_torch(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    _check(x, weight)
    bias = bias if bias is None else bias.to(x.dtype)
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias, eps)


LAYER_NORM_IMPLS = {"reference": layer_norm_reference, "torch": _layer_norm_torch}


def _check(x: Tensor, weight: Tensor) -> None:
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"weight must have shape {tuple(x.shape[-1:])}, got {tuple(weight.shape)}")
