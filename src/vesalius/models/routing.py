"""The router of a mixture of experts: which experts each token goes to, how much each counts, and how evenly.

Top-k gating: Shazeer et al. 2017, arXiv:1701.06538, section 2.1. Renormalised softmax (Mixtral): Jiang et al. 2024,
arXiv:2401.04088, eq. 1. Groups of experts: DeepSeek-V2, arXiv:2405.04434, section 2.2.2. Sigmoid scores and a bias that
only chooses: DeepSeek-V3, arXiv:2412.19437, section 2.1.2. Capacity: Switch, arXiv:2101.03961, section 2.2.

Scores are computed in float32 whatever the model is in: in bfloat16 close experts tie (ST-MoE, arXiv:2202.08906,
section 3.3). In training mode a router keeps the routing of its last forward pass, which `models/balance` reads.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.models.config_sections import Mixture


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What a router decided for T tokens over N experts.

    logits   (T, N) float32
    experts  (T, k) int64, the best first
    weights  (T, k) float32, what each chosen expert's output is multiplied by
    kept     (T, k) bool, False where the expert was full; None: nothing was dropped
    """

    logits: Tensor
    experts: Tensor
    weights: Tensor
    kept: Tensor | None = None


class Router(nn.Module):
    """x (T, D) -> Routing. `weight` (N, D), and where the mixture has them `bias` and `e_score_correction_bias` (N,).

    The correction bias is a buffer: no gradient reaches it, `balance.correct_biases` moves it.
    """

    def __init__(self, hidden_size: int, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture
        self.weight = nn.Parameter(torch.empty(mixture.num_experts, hidden_size))
        self.bias = nn.Parameter(torch.zeros(mixture.num_experts)) if mixture.router_bias else None
        bias = torch.zeros(mixture.num_experts) if mixture.correction_bias else None
        self.register_buffer("e_score_correction_bias", bias)
        self.last: Routing | None = None

    def forward(self, x: Tensor) -> Routing:
        with torch.autocast(x.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            logits = F.linear(x.float(), self.weight.float(), bias)  # (T, N)
        correction = self.get_buffer("e_score_correction_bias") if self.mixture.correction_bias else None
        experts, weights = choose(logits, self.mixture, correction)
        limited = self.training and self.mixture.capacity_factor > 0
        kept = within_capacity(experts, self.mixture) if limited else None
        routing = Routing(logits=logits, experts=experts, weights=weights, kept=kept)
        self.last = routing if self.training else None
        return routing

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a model leave the last routing behind: it belongs to a forward pass of this one."""
        return {**self.__dict__, "last": None}


def choose(logits: Tensor, mixture: Mixture, correction_bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """logits (T, N) float32 -> experts (T, k) int64 and their weights (T, k), best expert first.

    >>> two = Mixture(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=1)
    >>> choose(torch.tensor([[0.0, 3.0, 3.0 + math.log(3)]]), two)
    (tensor([[2, 1]]), tensor([[0.7500, 0.2500]]))
    """
    m = mixture
    scores = scores_of(logits, m)  # (T, N)
    ranked = scores if correction_bias is None else scores + correction_bias.float()
    if m.n_group > 1:
        ranked = ranked.masked_fill(~allowed_by_groups(ranked, m), -math.inf)
    experts = ranked.topk(m.num_experts_per_tok, dim=-1).indices  # (T, k)
    weights = scores.gather(-1, experts)
    if m.scoring == "softmax_topk":
        weights = weights.softmax(-1)
    elif m.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return experts, weights * m.routed_scaling_factor


def scores_of(logits: Tensor, mixture: Mixture) -> Tensor:
    """What experts are compared by: (T, N) -> (T, N). `softmax_topk` compares logits, its softmax comes after."""
    if mixture.scoring == "softmax":
        return logits.softmax(-1)
    return logits.sigmoid() if mixture.scoring == "sigmoid" else logits


def allowed_by_groups(scores: Tensor, mixture: Mixture) -> Tensor:
    """(T, N) -> (T, N) bool: the experts of the `topk_group` best groups, by their best or best two experts."""
    m = mixture
    grouped = scores.unflatten(-1, (m.n_group, -1))  # (T, groups, N / groups)
    of_group = (
        grouped.amax(-1) if m.group_score == "max" else grouped.topk(min(2, grouped.shape[-1]), -1).values.sum(-1)
    )
    best = of_group.topk(m.topk_group, dim=-1).indices  # (T, topk_group)
    allowed = torch.zeros_like(of_group, dtype=torch.bool).scatter_(-1, best, True)
    return allowed.repeat_interleave(grouped.shape[-1], dim=-1)


def capacity(tokens: int, mixture: Mixture) -> int:
    """How many tokens one expert takes of `tokens`: capacity_factor times its even share, rounded up."""
    return math.ceil(mixture.capacity_factor * tokens * mixture.num_experts_per_tok / mixture.num_experts)


def within_capacity(experts: Tensor, mixture: Mixture) -> Tensor:
    """experts (T, k) -> (T, k) bool: True where the expert still had room.

    First choices of all tokens come before any second choice, and among equals the earlier token comes first (GShard,
    arXiv:2006.16668, algorithm 1). Only training drops: in inference an answer must not depend on its neighbours.
    """
    tokens, k = experts.shape
    by_rank = experts.T.reshape(-1)  # (k T,) first choices first
    taken = F.one_hot(by_rank, mixture.num_experts).cumsum(0)  # (k T, N) how full each expert is
    place = taken.gather(-1, by_rank[:, None])[:, 0]  # (k T,) from 1
    return (place <= capacity(tokens, mixture)).view(k, tokens).T
