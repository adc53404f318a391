"""The one model (contract 1): tokens in, logits out. Every stage, from the first training step to the last served
token, runs this class.

A block is norm → mixer → residual → norm → channel → residual, or one of its relatives (models/blocks). The residual
stream is read from plain submodules: a layer's input is resid_pre, the input of its `post_attention_layernorm` (in a
block with norms before its branches) is resid_mid, its output is resid_post. Model code never mentions training,
sharding, quantising or serving: those change a built model from outside (contract 2).
"""

import torch
from torch import Tensor, nn

from vesalius.core.errors import UserError
from vesalius.kernels.attention import document_mask
from vesalius.models.attention import Cache, Context
from vesalius.models.blocks import BLOCKS
from vesalius.models.config import ModelConfig
from vesalius.models.initialise import initialise
from vesalius.models.layers import stream_norm
from vesalius.models.positions import Alibi, Rotary, rotary


class Transformer(nn.Module):
    """tokens (B, T) int64 -> logits (B, T, V) float32. Weights are drawn from `seed`."""

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):  # torch's layers draw weights that `initialise` replaces
            self.model = Decoder(config)
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        initialise(self, config, seed)

    def forward(self, tokens: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Next-token logits at every position.

        positions (B, T) int64: None counts from 0 along each row; a position 0 inside a row starts a new document that
        reads nothing of the one before. With a cache, positions are absolute and required, and earlier keys and values
        are read from it. UserError where a row is longer than the model's context; ValueError where a cache comes
        without positions.
        """
        return self.logits(self.model(tokens, positions, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (…, D), as `self.model` returns it -> (…, V) float32."""
        logits = self.lm_head(hidden).float()
        if self.config.logits_scaling != 1.0:
            logits = logits / self.config.logits_scaling
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(logits / cap) if cap else logits


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: tokens (B, T) -> (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions: nn.Embedding | None = None
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embed_norm = stream_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = Layers(BLOCKS[config.block](config, i) for i in range(config.num_hidden_layers))
        self.norm = stream_norm(config)
        self.rotary = rotary(config) if config.position == "rope" else None
        self.local_rotary = rotary(config, local=True) if self.rotary and config.rope_local_theta else None
        self.alibi = Alibi(config.num_attention_heads) if config.position == "alibi" else None

    def forward(self, tokens: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        self._check(tokens, positions, cache)
        packed = positions is not None and cache is None
        mask = document_mask(positions) if packed and positions is not None else None
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)  # (1, T)
        x = self._embed(tokens, positions)  # (B, T, D)
        context = Context(
            rope=_angles(self.rotary, positions),
            local_rope=_angles(self.local_rotary, positions),
            slopes=self.alibi.slopes if self.alibi else None,
            mask=mask,
            cache=cache,
        )
        return self.norm(self.layers(x, context))

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self._look_up(tokens)
        if self.config.embedding_multiplier != 1.0:
            x = x * self.config.embedding_multiplier
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        return self.dropout(x)

    def _look_up(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, D): the embedding's row of each token."""
        return self.embed_tokens(tokens)

    def _check(self, tokens: Tensor, positions: Tensor | None, cache: Cache | None) -> None:
        limit = self.config.max_position_embeddings
        if cache is None and tokens.shape[1] > limit:  # with one, a row may hold tokens of several texts
            raise UserError(f"{tokens.shape[1]} tokens in a row, but the model's context is {limit}: shorten the text")
        if cache is not None and positions is None:
            raise ValueError("a cache needs absolute positions (B, T), got None: pass where the new tokens stand")


class Layers(nn.ModuleList):
    """The blocks one behind the other: (B, T, D) -> (B, T, D)."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        for layer in self:
            x = layer(x, context)
        return x


def _angles(rotary: Rotary | None, positions: Tensor) -> tuple[Tensor, Tensor] | None:
    return None if rotary is None else rotary(positions)  # (B, 1, T, E) twice
