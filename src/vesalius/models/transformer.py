"""The one model (contract 1): tokens in, logits out. Every stage, from the first training step to the last served
token, runs this class.

A block is norm → mixer → residual → norm → channel → residual (pre-norm: Xiong et al. 2020, arXiv:2002.04745). The
residual stream is read from plain submodules: a layer's input is resid_pre, the input of its `post_attention_layernorm`
is resid_mid, its output is resid_post. Model code never mentions training, sharding, quantising or serving: those
change a built model from outside (contract 2).
"""

import torch
from torch import Tensor, nn

from vesalius.core.errors import UserError
from vesalius.kernels.attention import document_mask
from vesalius.kernels.rope import angles, frequencies
from vesalius.models.config import ModelConfig
from vesalius.models.initialise import initialise
from vesalius.models.layers import CHANNELS, NORMS, Attention, Cache, Context


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
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(logits / cap) if cap else logits


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: tokens (B, T) -> (B, T, D)."""

    inverse_frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = NORMS[config.norm](config.hidden_size, config.rms_norm_eps)
        self.register_buffer("inverse_frequencies", frequencies(config.head_dim, config.rope_theta), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        self._check(tokens, positions, cache)
        packed = positions is not None and cache is None
        mask = document_mask(positions) if packed and positions is not None else None
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)  # (1, T)
        x = self.embed_tokens(tokens)  # (B, T, D)
        if self.config.position == "learned":
            x = x + self.embed_positions(positions)
        x = self.dropout(x)
        context = Context(rope=self._rope(positions), mask=mask, cache=cache)
        for layer in self.layers:
            x = layer(x, context)
        return self.norm(x)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.config.position != "rope":
            return None
        return angles(positions.unsqueeze(1), self.inverse_frequencies)  # (B, 1, T, E) twice

    def _check(self, tokens: Tensor, positions: Tensor | None, cache: Cache | None) -> None:
        limit = self.config.max_position_embeddings
        if tokens.shape[1] > limit:
            raise UserError(f"{tokens.shape[1]} tokens in a row, but the model's context is {limit}: shorten the text")
        if cache is not None and positions is None:
            raise ValueError("a cache needs absolute positions (B, T), got None: pass where the new tokens stand")


class Block(nn.Module):
    """One layer: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        norm = NORMS[config.norm]
        self.input_layernorm = norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = CHANNELS[config.mlp](config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), context))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))
