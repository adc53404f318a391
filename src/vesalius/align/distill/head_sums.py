"""Any loss that is a sum over positions of a function of the logits, which exist a chunk of rows at a time.

As in train/head_loss the gradient is computed in the forward pass, while a chunk is in the cache, and what is kept for
the backward pass has the size of the hidden states and of the head. What differs is who derives: here torch does, from
the loss as it is written, at the price of some passes over the chunk beside the three products of the head.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from vesalius.kernels.linear import linear
from vesalius.models.transformer import Transformer
from vesalius.train.head_chunks import HeadSettings, accumulate, chunks, head_input, head_logits, head_slope
from vesalius.train.objectives import has_plain_head

ChunkLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]
"""logits (rows, V) float32 of the positions in a slice -> the sum of their losses, and (M,) sums of other numbers."""


@torch.compiler.disable  # how many positions there are differs from batch to batch
def head_sums(model: Transformer, x: Tensor, loss_of: ChunkLoss) -> tuple[Tensor, Tensor]:
    """The sums of `loss_of` over all chunks of hidden states x (N, D), N > 0; the first is differentiable."""
    if has_plain_head(model):
        config = model.config
        settings = HeadSettings(logits_scaling=config.logits_scaling, softcap=config.final_logit_softcapping)
        return _HeadSums.apply(head_input(x), model.lm_head.weight, settings, loss_of, torch.is_grad_enabled())

    def of_chunk(part: slice) -> tuple[Tensor, Tensor]:
        """Of a head that is called as it is: torch keeps the chunk's input and computes the chunk again."""
        return checkpoint(lambda rows: loss_of(model.logits(rows), part), x[part], use_reentrant=False)

    losses, others = zip(*map(of_chunk, chunks(len(x), model.config.vocab_size)), strict=True)
    return torch.stack(losses).sum(), torch.stack(others).sum(0).detach()


class _HeadSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, settings: HeadSettings, loss_of: ChunkLoss, derives: bool
    ) -> tuple[Tensor, Tensor]:
        """x (N, D), weight (V, D)."""
        wants_x, wants_weight = (derives and needs for needs in ctx.needs_input_grad[:2])
        matrix = weight.to(x.dtype)
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        losses: list[Tensor] = []
        others: list[Tensor] = []
        for part in chunks(len(x), len(weight)):
            logits = head_logits(x[part], matrix, settings)  # (rows, V)
            with torch.set_grad_enabled(wants_x or wants_weight):
                loss, other = loss_of(logits.requires_grad_(wants_x or wants_weight), part)
            losses.append(loss.detach())
            others.append(other.detach())
            if grad_x is None and grad_weight is None:
                continue
            (gradient,) = torch.autograd.grad(loss, logits)
            slope = head_slope(logits.detach(), settings)
            gradient = (gradient if slope is None else gradient.mul_(slope)).to(x.dtype)
            if grad_x is not None:
                grad_x[part] = linear(gradient, matrix.T)
            if grad_weight is not None:
                accumulate(grad_weight, gradient, x[part])
        ctx.save_for_backward(grad_x, grad_weight)
        summed = torch.stack(others).sum(0)
        ctx.mark_non_differentiable(summed)
        return torch.stack(losses).sum(), summed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_weight = ctx.saved_tensors
        return (*(None if g is None else g * grad.to(g.dtype) for g in (grad_x, grad_weight)), None, None, None)
