"""How evenly a mixture of experts is used: statistics, the losses that even it out, and the way without a loss.

Load balancing: Fedus et al. 2021 (Switch), arXiv:2101.03961, eq. 4-6, with k choices a token as in Mixtral's code.
Router z-loss: Zoph et al. 2022 (ST-MoE), arXiv:2202.08906, eq. 5. Balancing by a bias: Wang et al. 2024,
arXiv:2408.15664, algorithm 1, as DeepSeek-V3 does it.

All of it reads what the routers kept of the last forward pass in training mode. Losses are means over the layers;
transformers pools the tokens of all layers before it multiplies, so that an expert that is idle in one layer is excused
by a busy one of the same number in another. Left out: padding, which counts as tokens do.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.models.config_sections import Mixture
from vesalius.models.routing import Router, Routing


@dataclass(frozen=True, kw_only=True)
class AuxiliaryLosses:
    """Scalars with gradient. `balance` is k where the load is even, and up to N where one expert takes all."""

    balance: Tensor
    z: Tensor


@dataclass(frozen=True, kw_only=True)
class ExpertStatistics:
    """One layer's use of its N experts in the last forward pass.

    load         (N,) share of all choices, sums to 1
    probability  (N,) mean router probability, sums to 1
    dropped      (N,) choices that a full expert did not take
    choices      of all tokens together
    """

    load: Tensor
    probability: Tensor
    dropped: Tensor
    choices: int

    @property
    def dropped_share(self) -> float:
        """The part of all choices that full experts did not take."""
        return int(self.dropped.sum()) / self.choices


def auxiliary_losses(model: nn.Module) -> AuxiliaryLosses | None:
    """The losses of the last forward pass, means over the mixtures of `model`; None where it has none.

    ValueError where no forward pass in training mode came before.
    """
    parts = [(_balance(routing, router.mixture), z_loss(routing.logits)) for _, router, routing in _routed(model)]
    if not parts:
        return None
    balance, z = (torch.stack(part).mean() for part in zip(*parts, strict=True))
    return AuxiliaryLosses(balance=balance, z=z)


def load_balancing_loss(probabilities: Tensor, experts: Tensor) -> Tensor:
    """probabilities (T, N), experts chosen (T, k) -> N · Σ over experts of (choices / T) · (mean probability).

    Choices have no gradient; the loss pulls down the probability of experts that are chosen often.
    """
    tokens, count = probabilities.shape
    share = F.one_hot(experts.flatten(), count).sum(0).to(probabilities.dtype) / tokens  # (N,) sums to k
    return count * (share * probabilities.mean(0)).sum()


def z_loss(logits: Tensor) -> Tensor:
    """logits (T, N) -> mean over tokens of (log Σ exp)²: keeps router logits small, where softmax is exact."""
    return logits.logsumexp(-1).square().mean()


def probabilities_of(logits: Tensor, mixture: Mixture) -> Tensor:
    """(T, N) -> (T, N), rows that sum to 1: softmax, or sigmoids divided by their sum (DeepSeek-V3, eq. 19)."""
    if mixture.scoring == "sigmoid":
        scores = logits.sigmoid()
        return scores / scores.sum(-1, keepdim=True)
    return logits.softmax(-1)


@torch.no_grad()
def expert_statistics(model: nn.Module) -> dict[str, ExpertStatistics]:
    """Name of each router in `model` -> its statistics of the last forward pass. ValueError as `auxiliary_losses`."""
    return {name: _statistics(routing, router.mixture) for name, router, routing in _routed(model)}


@torch.no_grad()
def correct_biases(model: nn.Module, rate: float = 1e-3) -> None:
    """Moves every correction bias by `rate`: up where an expert had less than its share, down where it had more.

    For after a training step; it balances without a loss that would disturb the others. Routers without the bias are
    left alone. ValueError as `auxiliary_losses`.
    """
    for _, router, routing in _routed(model):
        if router.mixture.correction_bias:
            load = F.one_hot(routing.experts.flatten(), router.mixture.num_experts).sum(0).float()  # (N,)
            router.get_buffer("e_score_correction_bias").add_(torch.sign(load.mean() - load), alpha=rate)


def _routed(model: nn.Module) -> Iterator[tuple[str, Router, Routing]]:
    for name, module in model.named_modules():
        if isinstance(module, Router):
            if module.last is None:
                raise ValueError(
                    f"{name} has routed nothing in training mode: call model.train() and run a batch first"
                )
            yield name, module, module.last


def _balance(routing: Routing, mixture: Mixture) -> Tensor:
    return load_balancing_loss(probabilities_of(routing.logits, mixture), routing.experts)


def _statistics(routing: Routing, mixture: Mixture) -> ExpertStatistics:
    chosen = F.one_hot(routing.experts, mixture.num_experts)  # (T, k, N)
    dropped = chosen[~routing.kept].sum(0) if routing.kept is not None else chosen.new_zeros(mixture.num_experts)
    return ExpertStatistics(
        load=chosen.sum((0, 1)).float() / routing.experts.numel(),
        probability=probabilities_of(routing.logits, mixture).mean(0),
        dropped=dropped,
        choices=routing.experts.numel(),
    )
