"""The metadata of experts and of latent attention, read and written: src/models/*.cpp of llama.cpp say what each
architecture makes of them.

What an architecture's name implies stands in `Architecture.mixture` and wins over the numbers. Groups of experts are
compared by their best two where scores are sigmoids (DeepSeek-V3) and by their best elsewhere (V2): the file does not
say, the models' papers do. llama.cpp compares by the best two always.
"""

from collections.abc import Mapping
from typing import Any

from vesalius.core.errors import UserError
from vesalius.hub.gguf.architectures import Architecture
from vesalius.hub.gguf.metadata_numbers import Numbers
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import LatentAttention, Mixture

SOFTMAX, SIGMOID = 1, 2
"""Values of `expert_gating_func`; 0, none, is a softmax too."""

LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"
LOG_FACTOR = 0.1
"""What converters multiply DeepSeek's `mscale_all_dim` by in that key."""


def read_mixture(architecture: Architecture, numbers: Numbers, names: Mapping[str, int]) -> Mixture | None:
    """None where the file has no experts. `names` are the stored tensors. UserError for experts that the architecture
    does not have here, and for numbers that cannot be."""
    experts = numbers.whole("expert_count")
    if not experts:
        return None
    if architecture.mixture is None:
        raise UserError("the file holds experts, which its architecture does not have here: it cannot be opened")
    used, wide = numbers.whole("expert_used_count"), numbers.whole("feed_forward_length")
    width = numbers.whole("expert_feed_forward_length") if architecture.expert_width else wide
    width = width or wide // max(1, used)
    shared = numbers.whole("expert_shared_feed_forward_length") or width * numbers.whole("expert_shared_count")
    groups = numbers.whole("expert_group_count") or 1
    scoring = _scoring(numbers)
    values: dict[str, Any] = {
        "num_experts": experts,
        "num_experts_per_tok": used,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": shared,
        "scoring": scoring,
        "norm_topk_prob": numbers.flag("expert_weights_norm", False),
        "routed_scaling_factor": numbers.real("expert_weights_scale", 0.0) or 1.0,
        "n_group": groups,
        "topk_group": numbers.whole("expert_group_used_count") or 1 if groups > 1 else 1,
        "group_score": "top2_sum" if scoring == "sigmoid" and groups > 1 else "max",
        "correction_bias": any(name.endswith(".exp_probs_b.bias") for name in names),
        "dense_layers": tuple(range(min(numbers.whole("leading_dense_block_count"), numbers.whole("block_count")))),
    }
    return Mixture(**{**values, **architecture.mixture})


def _scoring(numbers: Numbers) -> str:
    kind = numbers.whole("expert_gating_func")
    if kind not in (0, SOFTMAX, SIGMOID):
        raise UserError(f"expert_gating_func is {kind}, expected {SOFTMAX} (softmax) or {SIGMOID} (sigmoid)")
    return "sigmoid" if kind == SIGMOID else "softmax"


def read_latent(numbers: Numbers) -> dict[str, Any]:
    """The fields of ModelConfig that latent attention decides. UserError for widths that cannot be."""
    turning = numbers.whole("rope.dimension_count")
    wide = numbers.whole("attention.key_length_mla") or numbers.whole("attention.key_length")
    latent = LatentAttention(
        kv_lora_rank=numbers.whole("attention.kv_lora_rank"),
        q_lora_rank=numbers.whole("attention.q_lora_rank"),
        qk_nope_head_dim=wide - turning,
        qk_rope_head_dim=turning,
        v_head_dim=numbers.whole("attention.value_length_mla") or numbers.whole("attention.value_length"),
    )
    heads = numbers.whole("attention.head_count")
    return {"latent_attention": latent, "num_key_value_heads": heads, "head_dim": turning}


def read_magnitude(numbers: Numbers) -> float:
    """DeepSeek's `mscale_all_dim`, which its published `mscale` equals; 0 where there is none."""
    return float(f"{numbers.real(LOG_MULTIPLIER, 0.0) / LOG_FACTOR:.6g}")


def write_mixture(architecture: Architecture, mixture: Mixture) -> dict[str, Any]:
    """The keys of a mixture, true or not: reading tells whether they say all of it."""
    m = mixture
    values: dict[str, Any] = {
        "expert_count": m.num_experts,
        "expert_used_count": m.num_experts_per_tok,
    }
    if architecture.expert_width:
        values["expert_feed_forward_length"] = m.moe_intermediate_size
    else:
        values["feed_forward_length"] = m.moe_intermediate_size
    if m.shared_expert_gate:
        values["expert_shared_feed_forward_length"] = m.shared_expert_intermediate_size
    if architecture.latent:
        values |= {
            "expert_shared_count": m.shared_expert_intermediate_size // m.moe_intermediate_size,
            "expert_weights_scale": m.routed_scaling_factor,
            "expert_weights_norm": m.norm_topk_prob,
            "expert_gating_func": SIGMOID if m.scoring == "sigmoid" else SOFTMAX,
            "expert_group_count": m.n_group,
            "expert_group_used_count": m.topk_group,
            "leading_dense_block_count": len(m.dense_layers),
        }
    return values


def write_latent(config: ModelConfig, latent: LatentAttention) -> dict[str, Any]:
    """The keys of latent attention in the form of today's files, where all heads read one latent vector."""
    m, scaling = latent, config.rope_scaling
    values: dict[str, Any] = {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": m.kv_lora_rank,
        "attention.key_length": m.kv_lora_rank + m.qk_rope_head_dim,
        "attention.value_length": m.kv_lora_rank,
        "attention.key_length_mla": m.qk_nope_head_dim + m.qk_rope_head_dim,
        "attention.value_length_mla": m.v_head_dim,
        "attention.q_lora_rank": m.q_lora_rank,  # llama.cpp insists on it, but for some numbers of layers
    }
    if scaling is not None and scaling.kind == "yarn":
        values[LOG_MULTIPLIER] = LOG_FACTOR * scaling.mscale_all_dim
    return values
