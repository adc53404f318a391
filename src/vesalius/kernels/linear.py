"""The matrix product of a linear layer: y = x Wᵀ + b, alone or for several layers that read the same x.

torch multiplies float32 matrices by MKL, which takes a slow path on processors that are not Intel's; oneDNN, which
comes with torch too, does not. Measured on Zen 5 with AVX-512: twice the rate forward and for ∂x, and no more than
MKL's for ∂W, whose factors lie transposed, so that stays with MKL (bench/RESULTS.md).

Three products of a narrow layer (q, k and v) leave a core waiting that one product of three times the width keeps busy:
`linears` joins the weights where they are small beside x. Left out: other dtypes, whose products are oneDNN's already.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vesalius.core.hardware import cpu_vendor


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, I), weight (O, I), bias (O,) or None -> (…, O). RuntimeError where the widths differ.

    >>> reference(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]))
    tensor([11.])
    """
    return F.linear(x, weight, bias)


class _OneDNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)  # (N, O)
        grad_x = _product(grad, weight.T, None) if wants_x else None
        grad_weight = rows.T @ x.flatten(0, -2) if wants_weight else None
        return grad_x, grad_weight, rows.sum(0) if wants_bias else None


@torch.library.custom_op("vesalius::onednn_linear", mutates_args=())
def _opaque(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What a compiler calls and does not look into: it knows oneDNN's operation for constant weights only."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@_opaque.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if torch.compiler.is_compiling():
        return _opaque(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same as `reference` by oneDNN: x (…, I) of two dimensions or more, float32 on a CPU."""
    return _OneDNN.apply(x, weight, bias)


IMPLS = {"reference": reference, "onednn": onednn}

AMD = cpu_vendor() == "AuthenticAMD"
"""A constant, which compilers read as one: torch's way to tell them that a call's result is one imports 90 MB."""

ROWS = 64
"""From so many rows on a product is bound by arithmetic, where the two libraries differ."""


def _best(x: Tensor) -> str:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return "reference"
    many = x.dim() > 1 and x.shape[:-1].numel() >= ROWS
    return "onednn" if many and AMD and torch.backends.mkldnn.is_available() else "reference"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, impl: str | None = None) -> Tensor:
    """The product by the implementation named, or else by the one that is fastest here."""
    return IMPLS[impl or _best(x)](x, weight, bias)


JOINED = 4
"""Weights are joined where copying them is cheap: where x has so many times more rows than they have."""


class Wrapped(nn.Module):
    """A layer that was put around another from outside, and makes its output of x and of what the inner one gives."""

    base: nn.Module

    def adjust(self, x: Tensor, y: Tensor) -> Tensor:
        """x (…, I) and y (…, O), what `base` gives for it -> (…, O)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.adjust(x, self.base(x))


def linears(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """x (…, I) through each layer -> (…, O) for each; by one product where all are plain and x has many rows.

    So are plain layers that others are wrapped around. A layer that was replaced from outside by anything else, or that
    somebody listens to, is called as it is.
    """
    inner = [layer.base if isinstance(layer, Wrapped) and not _is_listened_to(layer) else layer for layer in layers]
    weights = [layer.weight for layer in inner if is_plain(layer)]
    widths = [len(weight) for weight in weights]
    if len(weights) < len(layers) or x.shape[:-1].numel() < JOINED * sum(widths):
        return tuple(layer(x) for layer in layers)
    products = linear(x, torch.cat(weights)).split(widths, dim=-1)
    pairs = zip(layers, products, strict=True)
    return tuple(layer.adjust(x, y) if isinstance(layer, Wrapped) else y for layer, y in pairs)


def is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether calling the layer is a product with its weight and nothing more: no bias, no hook, not another module."""
    return is_product(layer) and layer.bias is None


def is_product(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether calling the layer is a product with its weight, and its bias, and nothing more."""
    return type(layer) in (nn.Linear, Linear) and not _is_listened_to(layer)


def _is_listened_to(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return bool(hooks)


class Linear(nn.Linear):
    """torch's layer, multiplied by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)
