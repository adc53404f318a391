"""A mixture of experts in place of the MLP: many small gated MLPs, of which each token passes through a few.

Tokens are sorted by expert, so that each projection is one grouped product (kernels/grouped_matmul), and sorted back to
be summed. Parameters of all experts are stacked in one tensor for each projection. A shared expert that
every token passes through: DeepSeekMoE, arXiv:2401.06066, section 3.2; weighed by a sigmoid in Qwen2-MoE,
arXiv:2407.10671, section 2.2.2. Clamped activation: gpt-oss, arXiv:2508.10925. Left out: jitter on the router's input.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from vesalius.kernels.grouped_matmul import grouped_matmul
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.layers import ACTIVATIONS, GatedMLP
from vesalius.models.routing import Router, Routing


class MixtureOfExperts(nn.Module):
    """x (B, T, D) -> (B, T, D): the weighted sum of the chosen experts, and the shared expert where there is one."""

    def __init__(self, config: ModelConfig, mixture: Mixture) -> None:
        super().__init__()
        self.gate = Router(config.hidden_size, mixture)
        self.experts = Experts(config, mixture)
        self.shared_expert: GatedMLP | None = None
        self.shared_expert_gate: nn.Linear | None = None
        if width := mixture.shared_expert_intermediate_size:
            self.shared_expert = GatedMLP(replace(config, intermediate_size=width))
        if width and mixture.shared_expert_gate:
            self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # (B T, D)
        out = self.experts(rows, self.gate(rows))
        if self.shared_expert is not None:
            shared = self.shared_expert(rows)
            gate = self.shared_expert_gate
            out = out + (shared if gate is None else gate(rows).sigmoid() * shared)
        return out.view(x.shape)


class Experts(nn.Module):
    """The routed experts: x (T, D) and its Routing -> (T, D).

    `gate_proj` and `up_proj` (N, F, D), `down_proj` (N, D, F), with `expert_bias` also `…_bias` (N, F) and (N, D). In
    place of a stack of matrices a module may stand that makes its products: rows (M, D) sorted by expert, and how many
    rows each expert has (N,) -> (M, F).
    """

    gate_proj: Tensor | nn.Module
    up_proj: Tensor | nn.Module
    down_proj: Tensor | nn.Module

    def __init__(self, config: ModelConfig, mixture: Mixture) -> None:
        super().__init__()
        N, D, F = mixture.num_experts, config.hidden_size, mixture.moe_intermediate_size
        self.mixture = mixture
        self.act = ACTIVATIONS[config.hidden_act]
        self.gate_proj = nn.Parameter(torch.empty(N, F, D))
        self.up_proj = nn.Parameter(torch.empty(N, F, D))
        self.down_proj = nn.Parameter(torch.empty(N, D, F))
        bias = mixture.expert_bias
        self.gate_proj_bias = nn.Parameter(torch.zeros(N, F)) if bias else None
        self.up_proj_bias = nn.Parameter(torch.zeros(N, F)) if bias else None
        self.down_proj_bias = nn.Parameter(torch.zeros(N, D)) if bias else None

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        order, place = by_expert(routing)  # (M,), M at most T k, and (T k,)
        expert = routing.experts.flatten()[order]
        sizes = torch.bincount(expert, minlength=self.mixture.num_experts)
        rows = x.index_select(0, order // routing.experts.shape[1])  # (M, D)
        gate = _project(rows, self.gate_proj, self.gate_proj_bias, sizes, expert)  # (M, F)
        up = _project(rows, self.up_proj, self.up_proj_bias, sizes, expert)
        out = _project(self._gated(gate, up), self.down_proj, self.down_proj_bias, sizes, expert)  # (M, D)
        weights = routing.weights if routing.kept is None else routing.weights * routing.kept
        chosen = out.index_select(0, place).unflatten(0, weights.shape)  # (T, k, D)
        return (weights.unsqueeze(1).to(out.dtype) @ chosen).squeeze(1)

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """act(gate) ⊙ up; with a limit g = min(gate, limit), u = up within ±limit: g · σ(alpha g) · (u + 1)."""
        m = self.mixture
        if not m.swiglu_limit:
            return self.act(gate) * up
        gate, up = gate.clamp(max=m.swiglu_limit), up.clamp(-m.swiglu_limit, m.swiglu_limit)
        return gate * (m.swiglu_alpha * gate).sigmoid() * (up + 1)


def by_expert(routing: Routing) -> tuple[Tensor, Tensor]:
    """The choices that are kept, numbered token by token, in the order of their experts and then of the tokens; and
    where each choice stands in that order, 0 for one that is dropped.

    -> order (M,) int64, place (T k,) int64.
    """
    flat = routing.experts.flatten()
    order = flat.argsort(stable=True)  # (T k,)
    if routing.kept is not None:
        order = order[routing.kept.flatten()[order]]
    place = torch.zeros_like(flat)
    place[order] = torch.arange(len(order), device=flat.device)
    return order, place


def _project(rows: Tensor, weight: Tensor | nn.Module, bias: Tensor | None, sizes: Tensor, expert: Tensor) -> Tensor:
    out = weight(rows, sizes) if isinstance(weight, nn.Module) else grouped_matmul(rows, weight, sizes)
    return out if bias is None else out + bias.index_select(0, expert).to(out.dtype)
