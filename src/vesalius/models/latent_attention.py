"""Multi-head latent attention: keys and values of all heads are read from one narrow vector a token, so that a cache
holds a tenth of the numbers. DeepSeek-V2, arXiv:2405.04434, section 2.1.

Without a cache the vector is expanded into keys and values and the heads attend as usual (eq. 9-19). With one, the
expansion is absorbed: qᵀ (W_UK c) = (W_UKᵀ q)ᵀ c, so that the query goes down to the latent vectors and the heads
attend to them as to one shared key (appendix B). The rotary part, which no matrix can be moved past, is a few more
numbers beside the latent vector, shared by all heads.

The absorbed path reads the weight of `kv_b_proj`, which therefore stays a plain matrix when others are quantised.
Left out: expanding where a long prompt meets an empty cache. It needs fewer operations there, but up to 512 tokens it
was no faster.
"""

import math

import torch
from torch import Tensor, nn

from vesalius.kernels.attention import AttentionRule, attention
from vesalius.kernels.rope import rotate
from vesalius.models.attention import Cache, Context
from vesalius.models.config import ModelConfig
from vesalius.models.layers import RMSNorm
from vesalius.models.positions import yarn_magnitude

LATENT_NORM_EPS = 1e-6
"""Of the norms on compressed vectors, whatever the model's other norms use."""


class MultiHeadLatentAttention(nn.Module):
    """Self-attention: (B, T, D) -> (B, T, D). R is kv_lora_rank, N and P the widths without and with position."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.latent_attention is not None
        c, m = config, config.latent_attention
        self.sizes, self.layer, self.dropout, self.heads = m, layer, c.dropout, c.num_attention_heads
        self.rule = AttentionRule(scale=score_scale(c))
        if m.q_lora_rank:
            self.q_a_proj = nn.Linear(c.hidden_size, m.q_lora_rank, bias=c.attention_bias)
            self.q_a_layernorm = RMSNorm(m.q_lora_rank, LATENT_NORM_EPS)
        wide = self.heads * (m.qk_nope_head_dim + m.qk_rope_head_dim)
        query = nn.Linear(m.q_lora_rank or c.hidden_size, wide, bias=False)
        self.add_module("q_b_proj" if m.q_lora_rank else "q_proj", query)
        self.kv_a_proj_with_mqa = nn.Linear(c.hidden_size, m.kv_lora_rank + m.qk_rope_head_dim, bias=c.attention_bias)
        self.kv_a_layernorm = RMSNorm(m.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_b_proj = nn.Linear(m.kv_lora_rank, self.heads * (m.qk_nope_head_dim + m.v_head_dim), bias=False)
        self.o_proj = nn.Linear(self.heads * m.v_head_dim, c.hidden_size, bias=c.attention_output_bias)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        m = self.sizes
        plain, turned = self._queries(x).split((m.qk_nope_head_dim, m.qk_rope_head_dim), -1)  # (B, H, T, N and P)
        latent, key = self.kv_a_proj_with_mqa(x).unsqueeze(1).split((m.kv_lora_rank, m.qk_rope_head_dim), -1)
        latent = self.kv_a_layernorm(latent)  # (B, 1, T, R)
        if context.rope is not None:
            turned, key = rotate(turned, *context.rope), rotate(key, *context.rope)
        if context.cache is None:
            mixed = self._expanded(plain, turned, latent, key, context)
        else:
            mixed = self._absorbed(plain, turned, latent, key, context.cache)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # (B, T, D)

    def _queries(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, N + P)."""
        if self.sizes.q_lora_rank:
            q = self.get_submodule("q_b_proj")(self.q_a_layernorm(self.q_a_proj(x)))
        else:
            q = self.get_submodule("q_proj")(x)
        return q.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _expanded(self, plain: Tensor, turned: Tensor, latent: Tensor, key: Tensor, context: Context) -> Tensor:
        """Every head attends with keys and values of its own -> (B, H, T, V)."""
        m = self.sizes
        wide = self.kv_b_proj(latent[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, N + V)
        keys, values = wide.split((m.qk_nope_head_dim, m.v_head_dim), -1)
        q = torch.cat((plain, turned), dim=-1)
        k = torch.cat((keys, key.expand(-1, self.heads, -1, -1)), dim=-1)  # (B, H, T, N + P)
        dropout = self.dropout if self.training else 0.0
        mask = context.mask
        return attention(q, k, values, causal=mask is None, mask=mask, rule=self.rule, dropout=dropout)

    def _absorbed(self, plain: Tensor, turned: Tensor, latent: Tensor, key: Tensor, cache: Cache) -> Tensor:
        """All heads attend to the latent vectors of the cache -> (B, H, T, V)."""
        m = self.sizes
        weight = self.kv_b_proj.weight.unflatten(0, (self.heads, -1))  # (H, N + V, R)
        down, up = weight.split((m.qk_nope_head_dim, m.v_head_dim), dim=1)
        q = torch.cat((plain @ down, turned), dim=-1)  # (B, H, T, R + P)
        mixed = cache.attend(self.layer, q, torch.cat((latent, key), dim=-1), latent, self.rule)  # (B, H, T, R)
        return mixed @ up.mT


def score_scale(config: ModelConfig) -> float:
    """What multiplies the scores: 1/√(N + P), and YaRN's magnitude squared where it counts for all dimensions."""
    assert config.latent_attention is not None
    m, scaling = config.latent_attention, config.rope_scaling
    if config.attention_multiplier:
        return config.attention_multiplier
    scale = 1 / math.sqrt(m.qk_nope_head_dim + m.qk_rope_head_dim)
    if scaling is None or not scaling.mscale_all_dim:
        return scale
    return scale * yarn_magnitude(scaling.factor, scaling.mscale_all_dim) ** 2
