"""Self-attention of one layer, and what all layers of one forward pass share.

QK-norm: Henry et al. 2020, arXiv:2010.04245, on each head before the rotation as in Qwen3, or on all heads at once as
in OLMo 2 (arXiv:2501.00656, section 3.2). What a layer adds to the plain score is its `AttentionRule`
(kernels/attention). Left out: latent attention, which is a mixer of its own (models/latent_attention).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vesalius.kernels.attention import PLAIN, AttentionRule, attention
from vesalius.kernels.linear import Linear, linears
from vesalius.kernels.paged_attention import Pages, Segments
from vesalius.kernels.rope import rotate
from vesalius.models.config import ModelConfig
from vesalius.models.layers import rms_norm_of
from vesalius.models.positions import slides


class Room(NamedTuple):
    """Where one layer's new keys and values go: its pages, and what each row of the batch is."""

    pages: Pages
    segments: Segments


class Cache(Protocol):
    """What inference owns: keys and values of the tokens before. Dense, paged and quantised caches all answer this."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        """q (B, H, T, E), new k and v (B, K, T, E), already rotated -> (B, H, T, E), having read, by the layer's rule,
        the keys up to each query.
        """
        ...

    def room(self, layer: int, count: int) -> Room | None:
        """Where whoever attends by itself writes the keys and values of `count` new tokens a row, which count as
        written from here on.

        None: this cache keeps them otherwise, so that `attend` has to be called.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every layer of one forward pass shares.

    rope        cos and sin, each broadcastable to (B, H, T, E); None without rotary positions
    local_rope  those of the sliding layers, where they have a base of their own
    slopes      (H,) of ALiBi
    mask        (B, 1, T, T) bool where documents are packed; None: causal over the whole row
    cache       where earlier keys and values are; None: there are none
    """

    rope: tuple[Tensor, Tensor] | None = None
    local_rope: tuple[Tensor, Tensor] | None = None
    slopes: Tensor | None = None
    mask: Tensor | None = None
    cache: Cache | None = None


class Attention(nn.Module):
    """Self-attention: (B, T, D) -> (B, T, D), with grouped key/value heads."""

    sinks: Tensor | None

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        c, self.layer, self.head_dim, self.dropout = config, layer, config.head_dim, config.dropout
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        self.q_proj = Linear(c.hidden_size, q, bias=c.attention_bias)
        self.k_proj = Linear(c.hidden_size, kv, bias=c.attention_bias)
        self.v_proj = Linear(c.hidden_size, kv, bias=c.attention_bias)
        self.o_proj = Linear(q, c.hidden_size, bias=c.attention_output_bias)
        self.q_norm, self.k_norm = _qk_norms(c)
        self.norms_all_heads = c.qk_norm == "full"
        self.sinks = nn.Parameter(torch.zeros(c.num_attention_heads)) if c.attention_sinks else None
        self.turns = layer not in c.layers_without_rope
        self.local = slides(c, layer)
        self.rule = AttentionRule(
            scale=c.attention_multiplier,
            window=c.sliding_window if self.local else 0,
            softcap=c.attn_logit_softcapping,
        )

    def forward(self, x: Tensor, context: Context) -> Tensor:
        q, k, v = self._project(x)
        rope = context.local_rope if self.local and context.local_rope is not None else context.rope
        if rope is not None and self.turns:
            q, k = rotate(q, *rope), rotate(k, *rope)
        rule = self.rule
        if self.sinks is not None or context.slopes is not None:
            rule = replace(rule, sinks=self.sinks, slopes=context.slopes)
        if context.cache is not None:
            mixed = context.cache.attend(self.layer, q, k, v, rule)
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = attention(q, k, v, causal=context.mask is None, mask=context.mask, rule=rule, dropout=dropout)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # (B, T, D)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, T, E), k and v (B, K, T, E), normed and not yet turned."""
        q, k, v = linears(x, (self.q_proj, self.k_proj, self.v_proj))
        v = self._heads(v)
        if self.norms_all_heads:
            return self._heads(self.q_norm(q)), self._heads(self.k_norm(k)), v
        return self.q_norm(self._heads(q)), self.k_norm(self._heads(k)), v

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _qk_norms(config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    if config.qk_norm == "none":
        return nn.Identity(), nn.Identity()
    heads = (1, 1) if config.qk_norm == "head" else (config.num_attention_heads, config.num_key_value_heads)
    return rms_norm_of(config, heads[0] * config.head_dim), rms_norm_of(config, heads[1] * config.head_dim)
