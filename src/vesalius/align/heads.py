"""Training of multi-token heads (infer/speculative/heads): Medusa-1, Cai et al. 2024, arXiv:2401.10774, section 2.2.1.

The model is frozen and read once; head i learns the token i places behind the next one from the same hidden state. Far
tokens are harder and only of use where the nearer ones were right, so head i weighs 0.8^i. The heads are what the loop
trains; the model stands in the objective. Left out: training the model along (Medusa-2).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vesalius.data.batch import IGNORE, Batch
from vesalius.models.transformer import Transformer
from vesalius.train.objectives import hidden_cross_entropy

DISCOUNT = 0.8
"""λ of section 2.2.1."""


@dataclass(frozen=True, eq=False)
class MultiToken:
    """The discounted cross-entropies of all heads, in nats; that of head i alone is the metric "head_i".

    `base` must be frozen (`requires_grad_(False)`), or gradients of its head are computed for nothing.
    """

    base: Transformer

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            hidden = self.base.model(batch.tokens, batch.positions)  # (B, T, D)
        loss = hidden.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        for distance, guess in enumerate(model(hidden), start=1):
            part, metrics[f"head_{distance}"] = hidden_cross_entropy(self.base, guess, later(batch, distance))
            loss = loss + DISCOUNT**distance * part
        return loss, metrics


def later(batch: Batch, distance: int) -> Tensor:
    """targets (B, T), moved: at each position the target `distance` places on, IGNORE where the row or the document
    ends before.

    >>> batch = Batch(tokens=torch.arange(4)[None], targets=torch.arange(1, 5)[None])
    >>> later(batch, 1)
    tensor([[   2,    3,    4, -100]])
    """
    targets = torch.full_like(batch.targets, IGNORE)
    targets[:, :-distance] = batch.targets[:, distance:]
    if batch.positions is not None:
        same = batch.positions[:, distance:] == batch.positions[:, :-distance] + distance
        targets[:, :-distance].masked_fill_(~same, IGNORE)
    return targets
