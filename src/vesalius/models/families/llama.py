"""The family `llama`: RMSNorm, rotary positions, gated MLP. Touvron et al. 2023, arXiv:2302.13971, section 2.2; scaled
rotary positions: Llama 3, arXiv:2407.21783, section 3.2.

Most other families are this one with some settings more, and read and write by way of it. `dropout` is our own key:
Llama's `attention_dropout` covers only one of the places.
"""

from typing import Any

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.families.published import (
    Published,
    activation,
    given,
    heads_divide,
    published_activation,
    refuse_quantised,
    whole_numbers,
)
from vesalius.models.families.rope import read_rope, write_rope

ARCHITECTURE = "LlamaForCausalLM"

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OPTIONAL = {
    "max_position_embeddings": 2048,
    "num_key_value_heads": 0,
    "head_dim": 0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "dropout": 0.0,
}
"""What a config.json that does not mention the setting means by it."""


def read(published: Published) -> ModelConfig:
    """UserError where a setting is missing, or asks for mathematics that the family does not have."""
    config = read_decoder(published)
    if config.partial_rotary_factor != 1.0:
        raise UserError(
            "config.json asks for rotary positions in a part of each head, which this family does not have; "
            "the nearest is 'phi3'"
        )
    return config


def read_decoder(published: Published) -> ModelConfig:
    """What Llama and its relatives have in common, and rotary positions in part of a head."""
    refuse_quantised(published)
    values: dict[str, Any] = {**whole_numbers(published, {name: name for name in REQUIRED})}
    values |= given(published, OPTIONAL)
    values |= read_rope(published, values["max_position_embeddings"])
    values |= {
        "attention_output_bias": values["attention_bias"],
        "hidden_act": activation(published.get("hidden_act") or "silu"),
    }
    return ModelConfig.from_dict(values)


def write(config: ModelConfig) -> Published | None:
    """None for a width that the heads do not divide, which transformers' Llama refuses."""
    return write_decoder(config) if heads_divide(config) else None


def write_decoder(config: ModelConfig, architecture: str = ARCHITECTURE) -> Published:
    """What Llama and its relatives have in common."""
    values = {name: getattr(config, name) for name in (*REQUIRED, *OPTIONAL) if name != "dropout"}
    values |= {"architectures": [architecture], "hidden_act": published_activation(config.hidden_act)}
    values |= without(write_rope(config), "partial_rotary_factor")
    return values | ({"dropout": config.dropout} if config.dropout else {})


def without(published: Published, *names: str) -> Published:
    """Without settings that the family's config does not have; it means what Llama means without them."""
    return {name: value for name, value in published.items() if name not in names}


def refuse_bidirectional(published: Published) -> None:
    """UserError for a model that reads tokens to come, as embedding models made of decoders do."""
    if published.get("use_bidirectional_attention"):
        raise UserError("config.json asks for attention to later tokens, but this model is causal: it cannot be opened")
