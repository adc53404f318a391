"""The parts of a block beside attention: norms and the two kinds of MLP. Each is a plain submodule, so a forward hook
reads or edits its output, and parameter names are Hugging Face Llama's, so a state_dict is a checkpoint.

GLU variants: Shazeer 2020, arXiv:2002.05202. Squared ReLU: So et al. 2021, arXiv:2109.08668.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.kernels.linear import Linear
from vesalius.kernels.norms import layer_norm, rms_norm
from vesalius.models.config import ModelConfig


class RMSNorm(nn.Module):
    """(…, D) -> (…, D), see kernels/norms."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class OffsetRMSNorm(RMSNorm):
    """RMSNorm by 1 + weight, so that weight decay pulls towards 1 and not towards 0 (Gemma, arXiv:2403.08295)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, 1 + self.weight, self.eps)


class LayerNorm(nn.Module):
    """(…, D) -> (…, D), see kernels/norms."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


def stream_norm(config: ModelConfig) -> nn.Module:
    """A norm of the residual stream's width, of the model's kind."""
    if config.norm == "layer":
        return LayerNorm(config.hidden_size, config.rms_norm_eps)
    return rms_norm_of(config, config.hidden_size)


def rms_norm_of(config: ModelConfig, size: int) -> RMSNorm:
    """An RMSNorm of `size`, as the model weighs them."""
    return (OffsetRMSNorm if config.norm_offset else RMSNorm)(size, config.rms_norm_eps)


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
        self.gate_proj = Linear(D, F_, bias=bias)
        self.up_proj = Linear(D, F_, bias=bias)
        self.down_proj = Linear(F_, D, bias=bias)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class MLP(nn.Module):
    """down(act(up(x))): (B, T, D) -> (B, T, D) through (B, T, F)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.up_proj(x)))
