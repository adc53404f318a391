"""KTO: answers that are good or bad each for itself, without pairs. Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8.

With r = log π(y|x) - log ρ(y|x), and z how far the policy is from its reference, a constant of the batch:

    desirable    λ_D · (1 - σ(β(r - z)))          z = max(0, mean of r over exchanged answers)
    undesirable  λ_U · (1 - σ(β(z - r)))

The unpaired loss of APO-zero (D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7) is the same with z = 0. Where there
are n_D and n_U answers of the two kinds, the paper (eq. 9) wants λ_D·n_D between 1 and 4/3 times λ_U·n_U.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vesalius.align.preference.ratings import RatingBatch
from vesalius.align.reference import Reference
from vesalius.align.rows.answers import answer_logprobs
from vesalius.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class KTO:
    """The mean over the answers of the losses above. With micro-batches each has a z of its own.

    Metrics: "kl", which is z; "reward_chosen" and "reward_rejected", the means of β·r over the answers of each kind (0
    where a micro-batch has none of it); "accuracy", how often r is on its side of z.
    """

    reference: Reference
    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"

    def __call__(self, model: nn.Module, batch: RatingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Transformer), "answers are read from its hidden states"
        ratio = answer_logprobs(model, batch.answers).sums - self.reference(model, batch.answers)  # (A,)
        good = batch.desirable
        kl = self._kl(model, batch) if self.loss == "kto" else ratio.new_zeros(())
        side = torch.where(good, 1.0, -1.0)  # (A,)
        weight = torch.where(good, self.desirable_weight, self.undesirable_weight)
        loss = (weight * (1 - (self.beta * side * (ratio - kl)).sigmoid())).mean()
        reward = self.beta * ratio.detach()
        return loss, {
            "kl": kl,
            "reward_chosen": _mean(reward, good),
            "reward_rejected": _mean(reward, ~good),
            "accuracy": ((side * (ratio.detach() - kl)).sign() / 2 + 0.5).mean(),
        }

    @torch.no_grad()
    def _kl(self, model: Transformer, batch: RatingBatch) -> Tensor:
        """z, 0 where no answer could be exchanged."""
        others = batch.exchanged
        if not others.weight:
            return torch.zeros((), device=others.tokens.device)
        return (answer_logprobs(model, others).sums - self.reference(model, others)).mean().clamp(min=0)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp(min=1)
