"""The family `qwen3_moe` (Qwen team 2025, arXiv:2505.09388, section 2): Qwen3 with a mixture of experts, in all layers
or some.
"""

from dataclasses import replace

from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.families import llama
from vesalius.models.families.mixture_parts import (
    PER_EXPERT,
    capacity_factor,
    dense_layers,
    whole,
    written_capacity,
)
from vesalius.models.families.published import SLIDING, Published, given, windows
from vesalius.models.weight_map import WeightMap

ARCHITECTURE = "Qwen3MoeForCausalLM"

DEFAULTS = {"max_position_embeddings": 32_768, "num_key_value_heads": 4}

WEIGHTS = WeightMap(rules=PER_EXPERT)


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for a mixture that cannot be."""
    config = llama.read(llama.without(published, "mlp_bias") | given(published, DEFAULTS))
    mixture = Mixture(
        num_experts=whole(published, "num_local_experts", whole(published, "num_experts", 128)),
        num_experts_per_tok=whole(published, "num_experts_per_tok", 8),
        moe_intermediate_size=whole(published, "moe_intermediate_size", 768),
        norm_topk_prob=bool(published.get("norm_topk_prob", False)),
        dense_layers=dense_layers(published, config.num_hidden_layers),
        capacity_factor=capacity_factor(published),
    )
    window = published.get("sliding_window", 4096) if published.get("use_sliding_window") else 0
    slides = windows(window, [SLIDING] * config.num_hidden_layers)
    return replace(config, mixture=mixture, qk_norm="head", **slides)


def write(config: ModelConfig) -> Published | None:
    """None without a mixture."""
    if (m := config.mixture) is None:
        return None
    return llama.without(llama.write_decoder(config, ARCHITECTURE), "mlp_bias") | {
        "num_experts": m.num_experts,
        "num_experts_per_tok": m.num_experts_per_tok,
        "moe_intermediate_size": m.moe_intermediate_size,
        "norm_topk_prob": m.norm_topk_prob,
        "mlp_only_layers": list(m.dense_layers),
        "decoder_sparse_step": 1,
        "use_sliding_window": config.sliding_window > 0,
        "sliding_window": config.sliding_window or None,
        **written_capacity(m),
    }
