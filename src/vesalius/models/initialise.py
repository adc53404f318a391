"""First weights. Normal with one width for all, and narrower where a branch is added to the residual stream.

Every layer adds two branches to the stream; dividing the width of their last projections by √(2L) keeps the variance of
the sum independent of the depth (Radford et al. 2019, GPT-2, section 2.3). Biases and sinks start at 0, norms at 1 (as
their modules make them).
"""

import math

import torch
from torch import nn

from vesalius.models.config import ModelConfig

RESIDUAL_PROJECTIONS = ("o_proj", "down_proj")


def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fills every weight of a freshly built model in place; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    narrower = 1 / math.sqrt(2 * config.num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = narrower if name.rsplit(".", 1)[-1] in RESIDUAL_PROJECTIONS else 1.0
            nn.init.normal_(module.weight, std=config.initializer_range * scale, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if not isinstance(module, nn.Linear | nn.Embedding):  # routers and stacked experts
            for part, weight in module.named_parameters(recurse=False):
                if weight.ndim > 1 and not part.endswith("bias"):
                    scale = narrower if part in RESIDUAL_PROJECTIONS else 1.0
                    nn.init.normal_(weight, std=config.initializer_range * scale, generator=generator)
