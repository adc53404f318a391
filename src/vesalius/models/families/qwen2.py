"""The family `qwen2`, Qwen 2.5 too (Yang et al. 2024, arXiv:2407.10671, section 2.2): Llama with biases on queries,
keys and values, and a window in the upper layers where the config turns it on.
"""

from dataclasses import replace
from typing import Any

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import FULL, SLIDING, Published, layer_types, windows

ARCHITECTURE = "Qwen2ForCausalLM"

DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32_768}


def read(published: Published) -> ModelConfig:
    """UserError as for Llama."""
    config = llama.read(DEFAULTS | published)
    return replace(config, attention_bias=True, attention_output_bias=False, **read_windows(published))


def write(config: ModelConfig) -> Published:
    """As Llama, with the windows."""
    values = llama.without(llama.write_decoder(config, ARCHITECTURE), "attention_bias", "mlp_bias", "head_dim")
    return values | write_windows(config)


def read_windows(published: Published) -> dict[str, Any]:
    """The sliding layers of Qwen's families: those from `max_window_layers` on, or those that are listed."""
    layers = range(published["num_hidden_layers"])
    first = published.get("max_window_layers", 28)
    kinds = published.get("layer_types") or [SLIDING if i >= first else FULL for i in layers]
    window = published.get("sliding_window", 4096) if published.get("use_sliding_window") else 0
    return windows(window, kinds)


def write_windows(config: ModelConfig) -> dict[str, Any]:
    """The values that `read_windows` reads."""
    if not config.sliding_window:
        return {"use_sliding_window": False}
    kinds = layer_types(config)
    first = kinds.index(SLIDING) if SLIDING in kinds else len(kinds)
    return {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": first,
        "layer_types": kinds,
    }
