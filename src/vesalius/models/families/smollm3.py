"""The family `smollm3` (Hugging Face 2025, the SmolLM3 report): Llama where every fourth layer has no positions
(Yang et al. 2025, arXiv:2501.18795).
"""

from dataclasses import replace

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import FULL, SLIDING, Published, layer_types, windows

ARCHITECTURE = "SmolLM3ForCausalLM"

DEFAULTS = {
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
    "rope_theta": 2_000_000.0,
}


def read(published: Published) -> ModelConfig:
    """UserError as for Llama. `no_rope_layers` has 1 for a layer with positions, against its name."""
    config = llama.read(DEFAULTS | published)
    layers, every = range(config.num_hidden_layers), published.get("no_rope_layer_interval") or 4
    turns = published.get("no_rope_layers") or [(i + 1) % every for i in layers]
    kinds = published.get("layer_types") or [FULL if turned else SLIDING for turned in turns]
    window = published.get("sliding_window") if published.get("use_sliding_window") else 0
    return replace(
        config,
        layers_without_rope=tuple(i for i, turned in zip(layers, turns, strict=False) if not turned),
        **windows(window, kinds),
    )


def write(config: ModelConfig) -> Published:
    """As Llama, with the layers listed."""
    values = llama.without(llama.write_decoder(config, ARCHITECTURE), "head_dim")
    return values | {
        "no_rope_layers": [int(i not in config.layers_without_rope) for i in range(config.num_hidden_layers)],
        "use_sliding_window": bool(config.sliding_window),
        "sliding_window": config.sliding_window or None,
        "layer_types": layer_types(config),
    }
