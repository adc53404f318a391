"""The family `granite` (IBM 2024, the Granite 3.0 report): Llama with four multipliers, after maximal update
parametrisation (Yang et al. 2022, arXiv:2203.03466).
"""

from dataclasses import replace
from typing import Any

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import Published, given, score_scale

ARCHITECTURE = "GraniteForCausalLM"

MULTIPLIERS = {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0}


def read(published: Published) -> ModelConfig:
    """UserError as for Llama."""
    config = llama.read(published)
    scale = score_scale(given(published, {"attention_multiplier": 1.0})["attention_multiplier"], config.head_dim)
    multipliers: dict[str, Any] = {name: float(value) for name, value in given(published, MULTIPLIERS).items()}
    return replace(config, attention_multiplier=scale, **multipliers)


def write(config: ModelConfig) -> Published:
    """As Llama, with the multipliers."""
    values = llama.without(llama.write_decoder(config, ARCHITECTURE), "head_dim")
    scale = config.attention_multiplier or config.head_dim**-0.5
    return values | {"attention_multiplier": scale} | {name: getattr(config, name) for name in MULTIPLIERS}
