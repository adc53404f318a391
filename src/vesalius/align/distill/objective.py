"""Distillation: a student learns what a teacher thinks of every next token, not only which one it was.

    L = mean over targets of D(p_τ, q_τ) + w · (-log q(target)),    p_τ = softmax(teacher's logits / τ)

Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2; for language models, with D forward and reverse KL and JSD,
Agarwal et al. 2023 (GKD), arXiv:2306.13649, equations 2 to 4. As there and in TRL, and unlike Hinton's, the loss is not
multiplied by τ²: the learning rate is chosen for the temperature anyway.

The logits of a whole batch exist of neither model (head_sums.py), and only positions that have a target reach a head.
Where the teacher isn't there any more, top_k.py has its likeliest tokens from the disk. Batches are those of tuning
(sft.py), or written by the student itself (on_policy.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.align.distill.divergences import divergences
from vesalius.align.distill.head_sums import head_sums
from vesalius.core.errors import UserError, nearest
from vesalius.data.batch import IGNORE, Batch
from vesalius.models.transformer import Transformer

Targets = tuple[Tensor, Tensor]
"""Which positions of a batch have a target, as numbers of its B · T positions (N,), and the targets (N,)."""


@dataclass(frozen=True, kw_only=True)
class DistillNumbers:
    """divergence   a name in the table of divergences.py
    beta         of the JSD: how much the teacher counts in the mixture
    temperature  what both models' logits are divided by
    sft_weight   of the cross-entropy with the data's own tokens, at temperature 1
    """

    divergence: str = "forward_kl"
    beta: float = 0.5
    temperature: float = 1.0
    sft_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.divergence not in (known := divergences(self.beta)):
            raise UserError(f"divergence = {self.divergence!r}, {nearest(self.divergence, known)}")
        if not 0 < self.beta < 1:
            raise UserError(f"beta = {self.beta:g}: of 0 and 1 the JSD is 0, take forward_kl or reverse_kl")

    def __call__(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """(N, O) twice -> (N,) the divergence."""
        return divergences(self.beta)[self.divergence](log_q, log_p)


@dataclass(frozen=True, eq=False)
class Distill:
    """The divergence from a teacher that stands beside the student; metrics are "agreement", how often both hold the
    same token to be the likeliest, and "divergence" alone where the data's own tokens count too.

    The teacher must be frozen, in evaluation mode, on the student's device, and of the student's vocabulary.
    """

    teacher: Transformer
    numbers: DistillNumbers = field(default_factory=DistillNumbers)

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Transformer), "hidden states are read from it"
        return self.of_hidden(model, model.model(batch.tokens, batch.positions), self.read(batch), batch)

    @torch.no_grad()
    def read(self, batch: Batch) -> Tensor:
        """The teacher's hidden states (B, T, D)."""
        return self.teacher.model(batch.tokens, batch.positions)

    def of_hidden(
        self, model: Transformer, hidden: Tensor, teacher_hidden: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The same of hidden states of both (B, T, D) that are there already."""
        wanted, _ = where_targets_are(batch)
        read = teacher_hidden.flatten(0, 1).index_select(0, wanted)  # (N, D)
        temperature = self.numbers.temperature

        @torch.no_grad()
        def teach(part: slice) -> tuple[Tensor, Tensor]:
            logits = self.teacher.logits(read[part])  # (rows, V)
            return (logits / temperature).log_softmax(-1), logits.argmax(-1)

        def diverge(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            log_p, likeliest = teach(part)
            return self.numbers((logits / temperature).log_softmax(-1), log_p), logits.argmax(-1) == likeliest

        return distilled(model, hidden, batch, self.numbers, diverge)


def distilled(
    model: Transformer,
    hidden: Tensor,
    batch: Batch,
    numbers: DistillNumbers,
    diverge: Callable[[Tensor, slice], tuple[Tensor, Tensor]],
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its metrics. `diverge` gives for logits (rows, V) of the positions in a slice, counted over those
    that have a target, the divergences (rows,) and whether student and teacher agree (rows,)."""
    wanted, targets = where_targets_are(batch)
    x = hidden.flatten(0, 1).index_select(0, wanted)  # (N, D)

    def loss_of(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        divergence, agrees = diverge(logits, part)
        loss = total = divergence.sum()
        if numbers.sft_weight:
            loss = loss + numbers.sft_weight * F.cross_entropy(logits, targets[part], reduction="sum")
        return loss, torch.stack((total.detach(), agrees.sum().float()))

    loss, others = head_sums(model, x, loss_of)
    divergence, agreement = others / len(x)
    metrics = {"agreement": agreement}
    return loss / len(x), metrics | {"divergence": divergence} if numbers.sft_weight else metrics


def where_targets_are(batch: Batch) -> Targets:
    """The positions that have a target, and the targets."""
    flat = batch.targets.flatten()
    wanted = (flat != IGNORE).nonzero().squeeze(1)
    return wanted, flat.index_select(0, wanted)
