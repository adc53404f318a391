"""Direct preference optimisation and its kin: a policy learns from pairs of answers, without a reward model.

Rafailov et al. 2023, arXiv:2305.18290, section 4: whatever reward r explains the preferences, the policy that maximises
it while it stays near a reference ρ has β·log(π(y|x)/ρ(y|x)) = r(x, y) + a term of x alone. So this ratio is the
reward, and the likelihood of the preferences trains the policy itself. What differs between the methods is one formula
of the two answers' log-probabilities: preference_losses has them all.

ρ's log-probabilities come with the batch (reference.precompute), or from `reference`, as the model was before.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vesalius.align.preference.losses import LOSSES, Loss, LossNumbers, PairLogprobs
from vesalius.align.reference import Reference
from vesalius.align.rows.answers import AnswerBatch, AnswerLogprobs, answer_logprobs
from vesalius.core.errors import UserError, nearest
from vesalius.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Preference:
    """The mean over the pairs of a loss in the table, and `sft_weight` times the chosen tokens' mean -log π (None: as
    the table says). That last mean is over tokens, so with micro-batches it is a mean of means.

    Metrics, means over the pairs:
        reward_chosen, reward_rejected  β·r of the answers, β·log π for losses without a reference
        margin, accuracy                the difference of the two, and how often it is positive (a tie counts half)
        logp_chosen, logp_rejected      log π of the answers
        likelier                        how often the chosen answer is the likelier one under π alone
        nll                             -log π of a chosen token, where it is in the loss

    UserError where there is no such loss, or ε does not fit it.
    """

    loss: str = "sigmoid"
    numbers: LossNumbers = field(default_factory=LossNumbers)
    sft_weight: float | None = None
    reference: Reference | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UserError(f"no preference loss {self.loss!r}: {nearest(self.loss, LOSSES)}")
        smoothing, kind = self.numbers.label_smoothing, self.row.smoothing
        if smoothing and kind == "no":
            fitting = ", ".join(name for name, loss in LOSSES.items() if loss.smoothing != "no")
            raise UserError(f"label_smoothing = {smoothing:g} is not in the loss {self.loss}; it is in {fitting}")
        if kind == "needed" and not smoothing:
            raise UserError(f"the loss {self.loss} needs label_smoothing, for example 0.1 (exo_pair: 0.001)")

    @property
    def row(self) -> Loss:
        return LOSSES[self.loss]

    def __call__(self, model: nn.Module, batch: AnswerBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Transformer), "answers are read from its hidden states"
        answers = answer_logprobs(model, batch)
        pairs = pair_up(answers, self._reference(model, batch))
        loss = self.row.formula(pairs, self.numbers).mean()
        metrics = pair_metrics(pairs, self.numbers.beta)
        weight = self.row.sft_weight if self.sft_weight is None else self.sft_weight
        if weight:
            nll = -pairs.chosen.sum() / pairs.chosen_length.sum()
            loss, metrics["nll"] = loss + weight * nll, nll.detach()
        return loss, metrics

    def _reference(self, model: Transformer, batch: AnswerBatch) -> Tensor:
        """(A,) log ρ, 0 for a loss without it."""
        if not self.row.reference:
            return torch.zeros(batch.weight, device=batch.tokens.device)
        if batch.reference is not None:
            return batch.reference
        assert self.reference is not None, "a loss with a reference was given none"
        return self.reference(model, batch)


def pair_up(answers: AnswerLogprobs, reference: Tensor) -> PairLogprobs:
    """Answers (A,) by twos, chosen before rejected, and the reference's log-probabilities (A,) of them."""
    (chosen, rejected), (ref_chosen, ref_rejected), (chosen_length, rejected_length) = (
        values.view(-1, 2).unbind(-1) for values in (answers.sums, reference, answers.lengths)
    )
    return PairLogprobs(chosen, rejected, ref_chosen, ref_rejected, chosen_length, rejected_length)


def pair_metrics(pairs: PairLogprobs, beta: float) -> dict[str, Tensor]:
    """The metrics of `Preference` but nll."""
    margin = beta * pairs.delta.detach()
    return {
        "reward_chosen": beta * pairs.chosen_ratio.detach().mean(),
        "reward_rejected": beta * pairs.rejected_ratio.detach().mean(),
        "margin": margin.mean(),
        "accuracy": _share_above(margin),
        "logp_chosen": pairs.chosen.detach().mean(),
        "logp_rejected": pairs.rejected.detach().mean(),
        "likelier": _share_above(pairs.chosen.detach() - pairs.rejected.detach()),
    }


def _share_above(values: Tensor) -> Tensor:
    """The share of values above 0, where 0 itself counts half."""
    return ((values.sign() + 1) / 2).mean()
