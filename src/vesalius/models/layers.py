"""The parts of a block: norms, the two kinds of MLP, and attention. Each is a plain submodule, so a forward hook reads
or edits its output, and parameter names are Hugging Face Llama's, so a state_dict is a checkpoint.

GLU variants: Shazeer 2020, arXiv:2002.05202. Squared ReLU: So et al. 2021, arXiv:2109.08668. QK-norm: Henry et al.
2020, arXiv:2010.04245, per head before the rotation as in Qwen3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.kernels.attention import attention
from vesalius.kernels.norms import layer_norm, rms_norm
from vesalius.kernels.rope import rotate
from vesalius.models.config import ModelConfig


class Cache(Protocol):
    """What inference owns: keys and values of the tokens before. Dense, paged and quantised caches all answer this."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, T, E), new k and v (B, K, T, E), already rotated -> (B, H, T, E), having read all keys up to each
        query.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every layer of one forward pass shares.

    rope   cos and sin, each broadcastable to (B, H, T, E); None without rotary positions
    mask   (B, 1, T, T) bool where documents are packed; None: causal over the whole row
    cache  where earlier keys and values are; None: there are none
    """

    rope: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    cache: Cache | None = None


class RMSNorm(nn.Module):
    """(…, D) -> (…, D), see kernels/norms."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """(…, D) -> (…, D), see kernels/norms."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Self-attention: (B, T, D) -> (B, T, D), with grouped key/value heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        c, self.layer, self.head_dim, self.dropout = config, layer, config.head_dim, config.dropout
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim, bias=c.attention_bias)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=c.attention_bias)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=c.attention_output_bias)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm == "head" else nn.Identity()
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps) if c.qk_norm == "head" else nn.Identity()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q = self.q_norm(self._heads(self.q_proj(x)))  # (B, H, T, E)
        k = self.k_norm(self._heads(self.k_proj(x)))  # (B, K, T, E)
        v = self._heads(self.v_proj(x))
        if context.rope is not None:
            q, k = rotate(q, *context.rope), rotate(k, *context.rope)
        if context.cache is not None:
            mixed = context.cache.attend(self.layer, q, k, v)
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = attention(q, k, v, causal=context.mask is None, mask=context.mask, dropout=dropout)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # (B, T, D)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)²."""
    return F.relu(x).square()


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU that GPT-2 and Gemma use."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "relu2": relu2,
}


class GatedMLP(nn.Module):
    """down(act(gate(x)) ⊙ up(x)): (B, T, D) -> (B, T, D) through (B, T, F)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, F_, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(D, F_, bias=bias)
        self.up_proj = nn.Linear(D, F_, bias=bias)
        self.down_proj = nn.Linear(F_, D, bias=bias)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class MLP(nn.Module):
    """down(act(up(x))): (B, T, D) -> (B, T, D) through (B, T, F)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.up_proj(x)))


NORMS: dict[str, Callable[[int, float], nn.Module]] = {"rms": RMSNorm, "layer": LayerNorm}
CHANNELS: dict[str, Callable[[ModelConfig], nn.Module]] = {"gated": GatedMLP, "plain": MLP}
