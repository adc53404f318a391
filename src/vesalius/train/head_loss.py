"""The output head and its cross-entropy together, in chunks of rows, so that the logits never exist at once.

A chunk of rows (head_chunks) is multiplied, turned into its loss and into its gradient, and multiplied back while it is
in the cache; what is kept for the backward pass has the size of the hidden states and of the weight. Hsu et al. 2024
(Liger kernels), arXiv:2410.10989, section 3.2, "FusedLinearCrossEntropy".
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vesalius.data.batch import IGNORE
from vesalius.kernels.linear import linear
from vesalius.train.head_chunks import HeadSettings, accumulate, chunks, head_input, head_logits, head_slope


@dataclass(frozen=True, kw_only=True)
class LossSettings(HeadSettings):
    """Of the head, and of the loss: label smoothing and z-loss."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0


@torch.compiler.disable  # a compiler would unroll the chunks, and has nothing to fuse in them
def head_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, settings: LossSettings = LossSettings()
) -> tuple[Tensor, Tensor]:
    """hidden (…, D), weight (V, D), targets (…) with IGNORE where there is no loss -> two scalars, means over targets.

    The same two as `objectives.cross_entropy` gives for the logits: the loss, and without gradient -log p(target).
    """
    return _HeadLoss.apply(head_input(hidden.flatten(0, -2)), weight, targets.flatten(), settings)


class _HeadLoss(torch.autograd.Function):
    """The gradients are computed in the forward pass, while a chunk's probabilities are there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, settings: LossSettings) -> tuple[Tensor, Tensor]:
        """x (N, D), weight (V, D), targets (N,)."""
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(x.dtype)
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        wanted = targets != IGNORE
        share = wanted / wanted.sum().clamp(min=1)  # (N,) mean over the targets
        loss = plain = torch.zeros((), device=x.device)
        for part in chunks(len(x), weight.shape[0]):
            logits = head_logits(x[part], matrix, settings)  # (rows, V)
            slope = head_slope(logits, settings)
            part_loss, part_plain, gradient = _loss(logits, targets[part], share[part], settings)
            loss, plain = loss + part_loss, plain + part_plain
            gradient = (gradient if slope is None else gradient.mul_(slope)).to(x.dtype)
            if grad_x is not None:
                grad_x[part] = linear(gradient, matrix.T)
            if grad_weight is not None:
                accumulate(grad_weight, gradient, x[part])
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.mark_non_differentiable(plain)
        return loss, plain

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        return (*(None if g is None else g * grad.to(g.dtype) for g in (grad_x, grad_weight)), None, None)


def _loss(logits: Tensor, targets: Tensor, share: Tensor, settings: LossSettings) -> tuple[Tensor, Tensor, Tensor]:
    """logits (rows, V), targets and share (rows,) -> the loss, the plain loss, and ∂loss/∂logits (rows, V).

    share · (p·(1 + 2·z_loss·log Z) - (1 - ε)·onehot - ε/V), written over the log-probabilities.
    """
    smoothing, z_loss = settings.label_smoothing, settings.z_loss
    index = targets.clamp(min=0)[:, None]  # (rows, 1)
    log_p = logits.log_softmax(-1)
    chosen = log_p.gather(1, index)[:, 0]
    plain = -(share * chosen).sum()
    loss = plain
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * (share * log_p.mean(-1)).sum()
    factor = share
    if z_loss:
        log_z = logits.gather(1, index)[:, 0] - chosen  # logit = log p + log Z, at any token
        loss = loss + z_loss * (share * log_z.square()).sum()
        factor = share * (1 + 2 * z_loss * log_z)
    gradient = log_p.exp_().mul_(factor[:, None])
    gradient.scatter_add_(1, index, -(1 - smoothing) * share[:, None])
    if smoothing:
        gradient.sub_(share[:, None], alpha=smoothing / logits.shape[-1])
    return loss, plain, gradient
