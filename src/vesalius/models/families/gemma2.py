"""The family `gemma2` (Gemma team 2024, arXiv:2408.00118, section 2): Gemma with norms on both sides of each branch,
soft caps on scores and logits, and a window in every other layer.
"""

from dataclasses import replace
from typing import Any

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.gemma import common
from vesalius.models.families.published import (
    FULL,
    SLIDING,
    Published,
    heads_divide,
    layer_types,
    published_activation,
    score_scale,
    windows,
)

ARCHITECTURE = "Gemma2ForCausalLM"

DEFAULTS = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for attention to later tokens."""
    config = read_sandwich(published, DEFAULTS)
    layers = range(config.num_hidden_layers)
    kinds = published.get("layer_types") or [FULL if i % 2 else SLIDING for i in layers]
    return replace(
        config,
        **windows(published.get("sliding_window", 4096), kinds),
        attn_logit_softcapping=published.get("attn_logit_softcapping", 50.0) or 0.0,
        final_logit_softcapping=published.get("final_logit_softcapping", 30.0) or 0.0,
    )


def write(config: ModelConfig) -> Published | None:
    """None for a width that the heads do not divide, which transformers' Gemma 2 refuses."""
    return write_sandwich(config, ARCHITECTURE) if heads_divide(config) else None


def read_sandwich(published: Published, defaults: dict[str, Any]) -> ModelConfig:
    """What Gemma 2 and 3 have in common."""
    llama.refuse_bidirectional(published)
    act = published.get("hidden_activation") or "gelu_pytorch_tanh"
    config = llama.read(defaults | published | {"hidden_act": act})
    scalar = published.get("query_pre_attn_scalar") or 256
    scale = score_scale(scalar**-0.5, config.head_dim)
    return replace(config, **common(config), block="sandwich", attention_multiplier=scale)


def write_sandwich(config: ModelConfig, architecture: str) -> Published:
    """The values that both families read."""
    values = llama.without(llama.write_decoder(config, architecture), "mlp_bias", "hidden_act")
    scale = config.attention_multiplier
    return values | {
        "hidden_activation": published_activation(config.hidden_act),
        "query_pre_attn_scalar": round(scale**-2) if scale else config.head_dim,
        "sliding_window": config.sliding_window or config.max_position_embeddings,  # transformers wants one always
        "layer_types": layer_types(config),
        "attn_logit_softcapping": config.attn_logit_softcapping or None,
        "final_logit_softcapping": config.final_logit_softcapping or None,
    }
