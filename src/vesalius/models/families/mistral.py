"""The family `mistral` (Jiang et al. 2023, arXiv:2310.06825, section 2): Llama, every layer reading a window."""

from dataclasses import replace

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import SLIDING, Published, windows

ARCHITECTURE = "MistralForCausalLM"

DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131_072}


def read(published: Published) -> ModelConfig:
    """UserError as for Llama."""
    config = llama.read(DEFAULTS | published)
    window = published.get("sliding_window", 4096)
    return replace(config, **windows(window, [SLIDING] * config.num_hidden_layers))


def write(config: ModelConfig) -> Published:
    """A config without a window is one of Mistral's later models."""
    values = llama.without(llama.write_decoder(config, ARCHITECTURE), "attention_bias", "mlp_bias")
    return values | {"sliding_window": config.sliding_window or None}
