"""The losses of preference learning, one line of mathematics each, in one table.

Of a prompt x, a chosen answer w and a rejected answer l, with π the policy and ρ the reference:

    r(y) = log π(y|x) - log ρ(y|x),   Δ = r(w) - r(l),   |y| tokens of an answer,   σ the logistic function

A loss gives one number for each pair; the objective (preference.py) takes their mean. Where the paper has a further
term on the chosen answer's likelihood, the table has its usual weight. Two losses sort a whole batch (aot,
aot_unpaired): with micro-batches each of these is sorted for itself.

Left out: other divergences than the reverse KL (Wang et al. 2023, arXiv:2309.16240) and weights by likelihood (WPO).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu


@dataclass(frozen=True)
class PairLogprobs:
    """Log-probabilities (P,) of both answers under policy and reference (0 for losses without it), and lengths (P,)."""

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """r(w)"""
        return self.chosen - self.reference_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """r(l)"""
        return self.rejected - self.reference_rejected

    @property
    def delta(self) -> Tensor:
        """Δ"""
        return self.chosen_ratio - self.rejected_ratio

    @property
    def mean_delta(self) -> Tensor:
        """r(w)/|w| - r(l)/|l|"""
        return self.chosen_ratio / self.chosen_length - self.rejected_ratio / self.rejected_length


@dataclass(frozen=True, kw_only=True)
class LossNumbers:
    """What the formulas call β, ε, γ and τ: ε is how often a label is wrong, γ SimPO's margin, τ DiscoPOP's slope."""

    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.5
    tau: float = 0.05


Formula = Callable[[PairLogprobs, LossNumbers], Tensor]


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    formula     pairs, numbers -> (P,)
    reference   whether ρ is in it
    sft_weight  of the mean -log π of the chosen answers' tokens that is added, if nobody says otherwise
    smoothing   whether ε is in it: "no", "yes", or "needed" where it must not be 0
    """

    formula: Formula
    reference: bool = True
    sft_weight: float = 0.0
    smoothing: Literal["no", "yes", "needed"] = "no"


def sigmoid(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """DPO, Rafailov et al. 2023, arXiv:2305.18290, eq. 7: -log σ(βΔ)"""
    return -logsigmoid(number.beta * pair.delta)


def conservative(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """cDPO, Mitchell 2023, "A note on DPO with noisy preferences", eq. 3: -(1-ε) log σ(βΔ) - ε log σ(-βΔ)"""
    return _smoothed(number.beta * pair.delta, number)


def robust(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """rDPO, Chowdhury et al. 2024, arXiv:2403.00409, eq. 12: (-(1-ε) log σ(βΔ) + ε log σ(-βΔ)) / (1-2ε)"""
    x, wrong = number.beta * pair.delta, number.label_smoothing
    return (wrong * logsigmoid(-x) - (1 - wrong) * logsigmoid(x)) / (1 - 2 * wrong)


def hinge(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """RSO, Liu et al. 2023, arXiv:2309.06657, section 3.3: max(0, 1 - βΔ)"""
    return relu(1 - number.beta * pair.delta)


def ipo(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Azar et al. 2023, arXiv:2310.12036, eq. 17, by token as its authors ran it: (r(w)/|w| - r(l)/|l| - 1/2β)²"""
    return (pair.mean_delta - 1 / (2 * number.beta)).square()


def exo_pair(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Ji et al. 2024, arXiv:2402.00856, eq. 16: σ(βΔ) log(σ(βΔ)/(1-ε)) + σ(-βΔ) log(σ(-βΔ)/ε)"""
    x, wrong = number.beta * pair.delta, number.label_smoothing
    return x.sigmoid() * (logsigmoid(x) - math.log1p(-wrong)) + (-x).sigmoid() * (logsigmoid(-x) - math.log(wrong))


def nca_pair(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Chen et al. 2024, arXiv:2402.05369, eq. 11 for two answers: -log σ(βr(w)) - ½ log σ(-βr(w)) - ½ log σ(-βr(l))"""
    chosen, rejected = number.beta * pair.chosen_ratio, number.beta * pair.rejected_ratio
    return -logsigmoid(chosen) - 0.5 * (logsigmoid(-chosen) + logsigmoid(-rejected))


def bco_pair(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Jung et al. 2024, arXiv:2404.04656, eq. 7 without its shift: -log σ(βr(w)) - log σ(-βr(l))"""
    return -logsigmoid(number.beta * pair.chosen_ratio) - logsigmoid(-number.beta * pair.rejected_ratio)


def sppo_hard(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Wu et al. 2024, arXiv:2405.00675, eq. 4.7 where w always wins: (r(w) - 1/2β)² + (r(l) + 1/2β)²"""
    return (pair.chosen_ratio - 0.5 / number.beta).square() + (pair.rejected_ratio + 0.5 / number.beta).square()


def aot(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Melnyk et al. 2024, arXiv:2406.05882, section 3: the smoothed loss of the sorted margins of π and of ρ."""
    margin, reference = pair.chosen - pair.rejected, pair.reference_chosen - pair.reference_rejected
    return _smoothed(number.beta * (_sorted(margin) - _sorted(reference)), number)


def aot_unpaired(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """The same paper, section 3: the smoothed loss of the sorted r(w) and the sorted r(l)."""
    return _smoothed(number.beta * (_sorted(pair.chosen_ratio) - _sorted(pair.rejected_ratio)), number)


def apo_zero(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7, for w better than π: 1 - σ(βr(w)) + σ(βr(l))"""
    return 1 - (number.beta * pair.chosen_ratio).sigmoid() + (number.beta * pair.rejected_ratio).sigmoid()


def apo_down(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """The same paper, eq. 8, for w worse than π: σ(βr(w)) + 1 - σ(βΔ)"""
    return (number.beta * pair.chosen_ratio).sigmoid() + 1 - (number.beta * pair.delta).sigmoid()


def discopop(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Lu et al. 2024, arXiv:2406.08414, eq. 5: (1-m)·(-log σ(βΔ)) + m·exp(-βΔ) with m = σ(βΔ/τ)"""
    x = number.beta * pair.delta
    mix = (x / number.tau).sigmoid()
    return (1 - mix) * -logsigmoid(x) + mix * (-x).exp()


def sigmoid_norm(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Length-normalised DPO (Lambert et al. 2024, arXiv:2411.15124, eq. 6): -log σ(β(r(w)/|w| - r(l)/|l|))"""
    return -logsigmoid(number.beta * pair.mean_delta)


def slic(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """SLiC-HF, Zhao et al. 2023, arXiv:2305.10425, eq. 3: max(0, 1 - β(log π(w) - log π(l)))"""
    return relu(1 - number.beta * (pair.chosen - pair.rejected))


def cpo(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Xu et al. 2024, arXiv:2401.08417, eq. 3: -log σ(β(log π(w) - log π(l))), smoothed by ε"""
    return _smoothed(number.beta * (pair.chosen - pair.rejected), number)


def simpo(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Meng et al. 2024, arXiv:2405.14734, eq. 6: -log σ(β(log π(w)/|w| - log π(l)/|l|) - γ), smoothed by ε"""
    margin = pair.chosen / pair.chosen_length - pair.rejected / pair.rejected_length
    return _smoothed(number.beta * margin - number.gamma, number)


def orpo(pair: PairLogprobs, number: LossNumbers) -> Tensor:
    """Hong et al. 2024, arXiv:2403.07691, eq. 6: -β log σ(log odds(w) - log odds(l)), odds(y) = p/(1-p), and p the
    geometric mean of an answer's token probabilities"""
    chosen, rejected = pair.chosen / pair.chosen_length, pair.rejected / pair.rejected_length
    return -number.beta * logsigmoid(chosen - rejected - _log1mexp(chosen) + _log1mexp(rejected))


LOSSES: dict[str, Loss] = {
    "sigmoid": Loss(sigmoid),
    "conservative": Loss(conservative, smoothing="needed"),
    "robust": Loss(robust, smoothing="yes"),
    "hinge": Loss(hinge),
    "ipo": Loss(ipo),
    "exo_pair": Loss(exo_pair, smoothing="needed"),
    "nca_pair": Loss(nca_pair),
    "bco_pair": Loss(bco_pair),
    "sppo_hard": Loss(sppo_hard),
    "aot": Loss(aot, smoothing="yes"),
    "aot_unpaired": Loss(aot_unpaired, smoothing="yes"),
    "apo_zero": Loss(apo_zero),
    "apo_down": Loss(apo_down),
    "discopop": Loss(discopop),
    "sigmoid_norm": Loss(sigmoid_norm),
    "slic": Loss(slic, reference=False, sft_weight=1.0),
    "cpo": Loss(cpo, reference=False, sft_weight=1.0, smoothing="yes"),
    "simpo": Loss(simpo, reference=False, smoothing="yes"),
    "orpo": Loss(orpo, reference=False, sft_weight=1.0),
}


def _smoothed(x: Tensor, number: LossNumbers) -> Tensor:
    """-(1-ε) log σ(x) - ε log σ(-x)"""
    return -(1 - number.label_smoothing) * logsigmoid(x) - number.label_smoothing * logsigmoid(-x)


def _sorted(values: Tensor) -> Tensor:
    return values.sort().values


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0. Mächler 2012, "Accurately computing log(1 - exp(-|a|))", eq. 7."""
    near = x > -math.log(2)
    # what is not taken must be finite too, or its gradient is nan
    close, far = torch.where(near, x, -1.0), torch.where(near, -1.0, x)
    return torch.where(near, (-close.expm1()).log(), (-far.exp()).log1p())
