"""What training minimises. An objective is `objective(model, batch) -> (loss, metrics)`.

The loss is a scalar tensor, the mean over the batch's targets; metrics are further scalar tensors by name, means over
the targets too, that the loop averages and records. Label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
z-loss, which keeps the softmax's normaliser near 1: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, section 5 (there
1e-4).

The logits are the largest tensor of a training step: (B, T, V) in float32. torch's cross_entropy writes three more of
that size; the function here writes one, log-probabilities, and turns it into the gradient where it lies. Left out:
computing the head in chunks, so that not even the logits exist at once (Liger kernels).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vesalius.data.batch import IGNORE, Batch

Objective = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class NextToken:
    """The cross-entropy of the next token, in nats.

    Where smoothing or z-loss are on, the plain cross-entropy is the metric "cross_entropy", comparable between
    settings.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch.tokens, batch.positions)  # (B, T, V)
        loss, plain = cross_entropy(logits, batch.targets, self.label_smoothing, self.z_loss)
        return loss, {"cross_entropy": plain} if self.label_smoothing or self.z_loss else {}


def cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """logits (…, V), targets (…) with IGNORE where there is no loss -> two scalars, means over the targets.

    The first is (1 - ε)·(-log p(target)) + ε·mean over V of (-log p) + z_loss·(log Z)²; the second, without gradient,
    -log p(target). Both are 0 where there is no target at all.
    """
    return _CrossEntropy.apply(logits.flatten(0, -2), targets.flatten(), label_smoothing, z_loss)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, label_smoothing: float, z_loss: float
    ) -> tuple[Tensor, Tensor]:
        """logits (N, V), targets (N,)."""
        log_p = logits.log_softmax(-1, dtype=torch.float32)  # (N, V)
        index = targets.clamp(min=0)[:, None]  # (N, 1)
        wanted = targets != IGNORE
        weight = wanted / wanted.sum().clamp(min=1)  # (N,) mean over the targets
        chosen = log_p.gather(1, index)[:, 0]
        log_z = logits.gather(1, index)[:, 0].float() - chosen  # logit = log p + log Z, at any token
        plain = -(weight * chosen).sum()
        loss = plain
        if label_smoothing:
            loss = (1 - label_smoothing) * loss - label_smoothing * (weight * log_p.mean(-1)).sum()
        if z_loss:
            loss = loss + z_loss * (weight * log_z.square()).sum()
        ctx.save_for_backward(log_p, index, weight, log_z)
        ctx.label_smoothing, ctx.z_loss, ctx.dtype = label_smoothing, z_loss, logits.dtype
        ctx.mark_non_differentiable(plain)
        return loss if loss is not plain else plain.clone(), plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """∂loss/∂logits = weight · (p·(1 + 2·z_loss·log Z) - (1 - ε)·onehot - ε/V), over log_p."""
        log_p, index, weight, log_z = ctx.saved_tensors
        weight = weight * grad
        gradient = log_p.exp_().mul_((weight * (1 + 2 * ctx.z_loss * log_z))[:, None])  # (N, V)
        gradient.scatter_add_(1, index, -(1 - ctx.label_smoothing) * weight[:, None])
        if ctx.label_smoothing:
            gradient.sub_(weight[:, None], alpha=ctx.label_smoothing / gradient.shape[-1])
        return gradient.to(ctx.dtype), None, None, None
