"""Prefix tuning: learned keys and values in front of every text, in every layer. Li & Liang 2021, arXiv:2101.00190,
section 4.

They start as the keys and values of tokens drawn from the vocabulary, since random ones start far from the model
(section 7.4). They are kept as PEFT keeps them: for each virtual token, keys and values of all layers in one row. Left
out: the reparametrisation by an MLP, and latent attention, whose cache holds no keys and values of heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vesalius.adapt.prompt import check_count, drawn_tokens
from vesalius.adapt.virtual_tokens import VirtualTokens, add_virtual, next_id
from vesalius.core.errors import UserError
from vesalius.kernels.attention import PLAIN, AttentionRule, attention
from vesalius.models.attention import Room
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """How many tokens. UserError for none."""

    num_virtual_tokens: int = 20

    def __post_init__(self) -> None:
        check_count(self.num_virtual_tokens)


class Prefix(VirtualTokens):
    """Learned keys and values: (P, L · 2 · K · E)."""

    def __init__(self, first: int, embedding: Tensor, config: ModelConfig) -> None:
        super().__init__()
        self.first, self.count = first, len(embedding)
        self.embedding = nn.Parameter(embedding.detach().clone())
        self._shape = config.num_hidden_layers, 2, config.num_key_value_heads, config.head_dim
        self._width = config.hidden_size

    def embeddings(self) -> Tensor:
        """Zeros: what virtual tokens read reaches nothing, since no key or value is computed from it."""
        return self.embedding.new_zeros(self.count, self._width)

    def keys_values(self, layer: int) -> tuple[Tensor, Tensor]:
        keys, values = self.embedding.unflatten(1, self._shape)[:, layer].unbind(1)  # (P, K, E) each
        return keys.transpose(0, 1), values.transpose(0, 1)


class Recorder:
    """A cache that only notes what is written: one (T, K · E) of keys and one of values for each layer."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        self.rows += [part[0].transpose(0, 1).flatten(1) for part in (k, v)]
        return attention(q, k, v, causal=True, rule=rule)

    def room(self, layer: int, count: int) -> Room | None:
        return None


def add_prefix(model: Transformer, config: PrefixConfig, name: str = "default", *, seed: int = 0) -> None:
    """Puts learned keys and values in front of every text, in place, and freezes the rest. UserError where the name is
    taken, and for latent attention."""
    check_heads(model.config)
    drawn = drawn_tokens(model, config.num_virtual_tokens, seed).unsqueeze(0)  # (1, P)
    recorder = Recorder()
    with torch.no_grad():
        model.model(drawn, torch.arange(drawn.shape[1], device=drawn.device).unsqueeze(0), recorder)
    add_virtual(model, name, Prefix(next_id(model), torch.cat(recorder.rows, 1).float(), model.config))


def check_heads(config: ModelConfig) -> None:
    """UserError where the model's cache holds no keys and values of heads."""
    if config.latent_attention is not None:
        raise UserError("prefix tuning needs keys and values of heads, which latent attention has not: use a prompt")
