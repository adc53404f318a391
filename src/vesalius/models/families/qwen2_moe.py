"""The family `qwen2_moe` (Qwen team 2024, arXiv:2407.10671, section 2.2.2): Qwen2 with a mixture of experts, in all
layers or some, and a shared expert that a sigmoid weighs.
"""

from dataclasses import replace
from typing import Any

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
from vesalius.models.families.published import FULL, SLIDING, Published, given, layer_types, windows
from vesalius.models.weight_map import WeightMap

ARCHITECTURE = "Qwen2MoeForCausalLM"

DEFAULTS = {"max_position_embeddings": 32_768, "num_key_value_heads": 16}

UNKNOWN = ("attention_bias", "mlp_bias", "head_dim")
"""Settings of Llama that the family does not have."""

WEIGHTS = WeightMap(rules=PER_EXPERT)


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for a mixture that cannot be."""
    config = llama.read(llama.without(published, *UNKNOWN) | given(published, DEFAULTS))
    mixture = Mixture(
        num_experts=whole(published, "num_experts", 60),
        num_experts_per_tok=whole(published, "num_experts_per_tok", 4),
        moe_intermediate_size=whole(published, "moe_intermediate_size", 1408),
        shared_expert_intermediate_size=whole(published, "shared_expert_intermediate_size", 5632),
        shared_expert_gate=True,
        norm_topk_prob=bool(published.get("norm_topk_prob", False)),
        dense_layers=dense_layers(published, config.num_hidden_layers),
        capacity_factor=capacity_factor(published),
    )
    return replace(
        config,
        mixture=mixture,
        attention_bias=bool(published.get("qkv_bias", True)),
        attention_output_bias=False,
        **_windows(published, config.num_hidden_layers),
    )


def write(config: ModelConfig) -> Published | None:
    """None without a mixture."""
    if (m := config.mixture) is None:
        return None
    return llama.without(llama.write_decoder(config, ARCHITECTURE), *UNKNOWN) | {
        "qkv_bias": config.attention_bias,
        "num_experts": m.num_experts,
        "num_experts_per_tok": m.num_experts_per_tok,
        "moe_intermediate_size": m.moe_intermediate_size,
        "shared_expert_intermediate_size": m.shared_expert_intermediate_size,
        "norm_topk_prob": m.norm_topk_prob,
        "mlp_only_layers": list(m.dense_layers),
        "decoder_sparse_step": 1,
        "use_sliding_window": config.sliding_window > 0,
        "sliding_window": config.sliding_window or None,
        "layer_types": layer_types(config),
        **written_capacity(m),
    }


def _windows(published: Published, layers: int) -> dict[str, Any]:
    """The sliding layers: those that `layer_types` names, or every other one below `max_window_layers`."""
    if not published.get("use_sliding_window"):
        return windows(0, ())
    below = whole(published, "max_window_layers", 28)
    kinds = published.get("layer_types") or [SLIDING if i < below and i % 2 == 0 else FULL for i in range(layers)]
    return windows(published.get("sliding_window", 4096), kinds)
