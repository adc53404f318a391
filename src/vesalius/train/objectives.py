"""What training minimises. An objective is `objective(model, batch) -> (loss, metrics)`.

The loss is a scalar tensor, the mean over the batch's targets; metrics are further scalar tensors by name, means over
the targets too, that the loop averages and records. Label smoothing: Szegedy et al. 2016, arXiv:1512.00567, section 7.
z-loss, which keeps the softmax's normaliser near 1: Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, section 5 (there
1e-4). The losses of a mixture of experts are in models/balance (there 1e-2 and 1e-3).

The logits are the largest tensor of a training step, so where the head is a plain matrix they never exist at once
(head_loss); a head that was replaced from outside is called as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.kernels.linear import is_plain
from vesalius.models.balance import auxiliary_losses
from vesalius.models.transformer import Transformer
from vesalius.train.head_loss import LossSettings, head_cross_entropy

Objective = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class NextToken:
    """The cross-entropy of the next token, in nats.

    Where anything is added to it, the plain cross-entropy is the metric "cross_entropy", comparable between settings.
    `moe_balance` and `moe_z` are the weights of a mixture's two losses, which are metrics under these names.
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    moe_balance: float = 0.0
    moe_z: float = 0.0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, plain = self._of_tokens(model, batch)
        if self.moe_balance or self.moe_z:
            added, metrics = self._of_experts(model)
            return loss + added, {"cross_entropy": plain} | metrics
        return loss, {"cross_entropy": plain} if self.label_smoothing or self.z_loss else {}

    def _of_tokens(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        if not has_plain_head(model):
            logits = model(batch.tokens, batch.positions)  # (B, T, V)
            return cross_entropy(logits, batch.targets, self.label_smoothing, self.z_loss)
        hidden = model.model(batch.tokens, batch.positions)  # (B, T, D)
        return hidden_cross_entropy(model, hidden, batch.targets, self.label_smoothing, self.z_loss)

    def _of_experts(self, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """What the routers of the forward pass just done add. UserError for a model without a mixture."""
        losses = auxiliary_losses(model)
        if losses is None:
            raise UserError("moe_balance or moe_z is set, but the model has no mixture of experts: set both to 0")
        added = self.moe_balance * losses.balance + self.moe_z * losses.z
        return added, {"moe_balance": losses.balance.detach(), "moe_z": losses.z.detach()}


def cross_entropy(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """logits (…, V), targets (…) with IGNORE where there is no loss -> two scalars, means over the targets.

    The first is (1 - ε)·(-log p(target)) + ε·mean over V of (-log p) + z_loss·(log Z)²; the second, without gradient,
    -log p(target). Both are 0 where there is no target at all.
    """
    log_p = logits.log_softmax(-1, dtype=torch.float32)
    index = targets.clamp(min=0).unsqueeze(-1)  # (…, 1)
    wanted = targets != IGNORE
    share = wanted / wanted.sum().clamp(min=1)  # (…) mean over the targets
    chosen = log_p.gather(-1, index).squeeze(-1)
    plain = -(share * chosen).sum()
    loss = plain
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * (share * log_p.mean(-1)).sum()
    if z_loss:
        loss = loss + z_loss * (share * logits.float().logsumexp(-1).square()).sum()
    return loss, plain.detach()


def hidden_cross_entropy(
    model: Transformer, hidden: Tensor, targets: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`cross_entropy` of the logits that the model's head makes of hidden (…, D), which need not all exist at once."""
    if not has_plain_head(model):
        return cross_entropy(model.logits(hidden), targets, label_smoothing, z_loss)
    settings = LossSettings(
        logits_scaling=model.config.logits_scaling,
        softcap=model.config.final_logit_softcapping,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )
    return head_cross_entropy(hidden, model.lm_head.weight, targets, settings)


def has_plain_head(model: nn.Module) -> TypeGuard[Transformer]:
    """Whether the logits are a product with one matrix, scaled and capped as the config says, and nothing more."""
    return type(model) is Transformer and is_plain(model.lm_head)
