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
    wanted = (targets.flatten() != IGNORE).nonzero().squeeze(1)  # (N,)
    x = hidden.flatten(0, -2).index_select(0, wanted)  # (N, D)
    return _HeadLoss.apply(head_input(x), weight, targets.flatten().index_select(0, wanted), settings)


class _HeadLoss(torch.autograd.Function):
    """The gradients are computed in the forward pass, while a chunk's probabilities are there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, settings: LossSettings) -> tuple[Tensor, Tensor]:
        """x (N, D), weight (V, D), targets (N,)."""
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(x.dtype)
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        loss, plain = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
        for part in chunks(len(x), weight.shape[0]):
            logits = head_logits(x[part], matrix, settings)  # (rows, V)
            slope = head_slope(logits, settings)
            part_loss, part_plain, gradient = _loss(logits, targets[part], 1 / len(x), settings)
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


def _loss(logits: Tensor, targets: Tensor, share: float, settings: LossSettings) -> tuple[Tensor, Tensor, Tensor]:
    """logits (rows, V), targets (rows,), what each weighs -> the loss, the plain loss, and ∂loss/∂logits (rows, V).

    share · (p·(1 + 2·z_loss·log Z) - (1 - ε)·onehot - ε/V), written over the logits.
    """
    smoothing, z_loss = settings.label_smoothing, settings.z_loss
    index = targets[:, None]  # (rows, 1)
    chosen = logits.gather(1, index)[:, 0]
    mean = logits.mean(-1) if smoothing else chosen
    largest = logits.amax(-1, keepdim=True)
    exponentials = logits.sub_(largest).exp_()
    total = exponentials.sum(-1)
    log_z = total.log() + largest[:, 0]
    plain = share * (log_z - chosen).sum()
    loss = plain
    if smoothing:
        loss = (1 - smoothing) * loss + smoothing * share * (log_z - mean).sum()
    if z_loss:
        loss = loss + z_loss * share * log_z.square().sum()
    gradient = exponentials.mul_((share * (1 + 2 * z_loss * log_z) / total)[:, None])
    gradient.scatter_add_(1, index, gradient.new_full(index.shape, -(1 - smoothing) * share))
    if smoothing:
        gradient.sub_(smoothing * share / logits.shape[-1])
    return loss, plain, gradient
