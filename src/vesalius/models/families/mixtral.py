"""The family `mixtral` (Jiang et al. 2024, arXiv:2401.04088): Mistral with a mixture of experts in every layer.

Weights are called `block_sparse_moe.experts.0.w1` (gate), `w3` (up) and `w2` (down) in files. Left out: jitter on the
router's input, which only some training runs use.
"""

from dataclasses import replace

from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.families import llama
from vesalius.models.families.mixture_parts import (
    LAYER_MLP,
    capacity_factor,
    expert_rules,
    whole,
    written_capacity,
)
from vesalius.models.families.published import SLIDING, Published, given, windows
from vesalius.models.weight_map import WeightMap, rename

ARCHITECTURE = "MixtralForCausalLM"

DEFAULTS = {
    "max_position_embeddings": 131_072,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
}

BIASES = ("attention_bias", "mlp_bias")

THEIRS = "model.layers.{}.block_sparse_moe."

WEIGHTS = WeightMap(
    rules=(
        rename(THEIRS + "gate.weight", LAYER_MLP + "gate.weight"),
        *expert_rules(THEIRS + "experts.", "w1", "w3", "w2"),
    )
)


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for a mixture that cannot be."""
    config = llama.read(llama.without(published, *BIASES) | given(published, DEFAULTS))
    mixture = Mixture(
        num_experts=whole(published, "num_local_experts", 8),
        num_experts_per_tok=whole(published, "num_experts_per_tok", 2),
        moe_intermediate_size=whole(published, "intermediate_size"),
        capacity_factor=capacity_factor(published),
    )
    slides = windows(published.get("sliding_window"), [SLIDING] * config.num_hidden_layers)
    return replace(config, mixture=mixture, **slides)


def write(config: ModelConfig) -> Published | None:
    """None without a mixture."""
    if (m := config.mixture) is None:
        return None
    return llama.without(llama.write_decoder(config, ARCHITECTURE), *BIASES) | {
        "intermediate_size": m.moe_intermediate_size,
        "num_local_experts": m.num_experts,
        "num_experts_per_tok": m.num_experts_per_tok,
        "sliding_window": config.sliding_window or None,
        **written_capacity(m),
    }
