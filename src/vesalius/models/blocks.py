"""One layer of the model: a mixer moves information between tokens, a channel works on each token, and norms stand
before, behind, or on both sides of them.

pre       norm → mixer → residual → norm → channel → residual: Xiong et al. 2020, arXiv:2002.04745
post      the norms stand behind mixer and channel, inside the residual branch: OLMo 2, arXiv:2501.00656, section 3.1
sandwich  norms before and behind: Gemma 2, arXiv:2408.00118, section 2
parallel  mixer and channel read the same stream and are added together: GPT-NeoX, arXiv:2204.06745, section 2.1.2

Norms are called as in the families that have them, so `post_attention_layernorm` stands before the channel in `pre` and
`parallel`, and behind the mixer in `post` and `sandwich`.
"""

from torch import Tensor, nn

from vesalius.models.attention import Attention, Context
from vesalius.models.config import ModelConfig
from vesalius.models.experts import MixtureOfExperts
from vesalius.models.latent_attention import MultiHeadLatentAttention
from vesalius.models.layers import MLP, GatedMLP, stream_norm


class Block(nn.Module):
    """(B, T, D) -> (B, T, D). The kinds differ in where their norms stand."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self._make_norms(config)
        self.self_attn = mixer(config, layer)
        self.mlp = channel(config, layer)
        self.dropout = nn.Dropout(config.dropout)
        self.residual_multiplier = config.residual_multiplier

    def _make_norms(self, config: ModelConfig) -> None:
        raise NotImplementedError

    def _scaled(self, branch: Tensor) -> Tensor:
        """What is added to the stream for the output of a branch."""
        branch = self.dropout(branch)
        return branch if self.residual_multiplier == 1.0 else branch * self.residual_multiplier


class PreNorm(Block):
    """x + mixer(norm(x)), then x + channel(norm(x))."""

    def _make_norms(self, config: ModelConfig) -> None:
        self.input_layernorm = stream_norm(config)
        self.post_attention_layernorm = stream_norm(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self._scaled(self.self_attn(self.input_layernorm(x), context))
        return x + self._scaled(self.mlp(self.post_attention_layernorm(x)))


class PostNorm(Block):
    """x + norm(mixer(x)), then x + norm(channel(x))."""

    def _make_norms(self, config: ModelConfig) -> None:
        self.post_attention_layernorm = stream_norm(config)
        self.post_feedforward_layernorm = stream_norm(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self._scaled(self.post_attention_layernorm(self.self_attn(x, context)))
        return x + self._scaled(self.post_feedforward_layernorm(self.mlp(x)))


class Sandwich(Block):
    """x + norm(mixer(norm(x))), then x + norm(channel(norm(x)))."""

    def _make_norms(self, config: ModelConfig) -> None:
        self.input_layernorm = stream_norm(config)
        self.post_attention_layernorm = stream_norm(config)
        self.pre_feedforward_layernorm = stream_norm(config)
        self.post_feedforward_layernorm = stream_norm(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self._scaled(self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), context)))
        return x + self._scaled(self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x))))


class Parallel(PreNorm):
    """x + mixer(norm(x)) + channel(other norm(x))."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        mixed = self._scaled(self.self_attn(self.input_layernorm(x), context))
        return x + mixed + self._scaled(self.mlp(self.post_attention_layernorm(x)))


BLOCKS: dict[str, type[Block]] = {"pre": PreNorm, "post": PostNorm, "sandwich": Sandwich, "parallel": Parallel}


def mixer(config: ModelConfig, layer: int) -> nn.Module:
    """What moves information between tokens in this layer: (B, T, D) and the Context -> (B, T, D)."""
    return MultiHeadLatentAttention(config, layer) if config.latent_attention else Attention(config, layer)


def channel(config: ModelConfig, layer: int) -> nn.Module:
    """What works on each token in this layer: (B, T, D) -> (B, T, D)."""
    if config.mixture and layer not in config.mixture.dense_layers:
        return MixtureOfExperts(config, config.mixture)
    return GatedMLP(config) if config.mlp == "gated" else MLP(config)
