"""The family `bloom` (BigScience 2022, arXiv:2211.05100, section 3.2): ALiBi, LayerNorm, one behind the embedding too,
a plain GELU MLP, biases everywhere.

ALiBi has no longest text; `seq_length`, which the published files carry, is taken for the context. Left out: the
residual read behind the norm, which no published model uses.
"""

from typing import Any

from vesalius.models.config import ModelConfig
from vesalius.models.families.published import (
    Published,
    given,
    heads_divide,
    refuse_others,
    refuse_quantised,
    whole_numbers,
)
from vesalius.models.weight_map import WeightMap, fused_heads, renames

ARCHITECTURE = "BloomForCausalLM"

NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "seq_length",
}
"""Ours -> theirs."""

OTHER_NAMES = {"n_embed": "hidden_size", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
"""What some of the published files write instead."""

OPTIONAL = {"initializer_range": 0.02, "tie_word_embeddings": True, "dropout": 0.0}

PARTS = {
    "norm": "layer",
    "position": "alibi",
    "mlp": "plain",
    "hidden_act": "gelu_tanh",
    "attention_bias": True,
    "attention_output_bias": True,
    "mlp_bias": True,
    "embedding_norm": True,
}

THEIRS, OURS = "transformer.h.{}.", "model.layers.{}."
QKV = [OURS + f"self_attn.{part}_proj" for part in "qkv"]

WEIGHTS = WeightMap(
    base="transformer.",
    rules=(
        *renames(
            {
                "transformer.word_embeddings": "model.embed_tokens",
                "transformer.word_embeddings_layernorm": "model.embed_norm",
                "transformer.ln_f": "model.norm",
                THEIRS + "input_layernorm": OURS + "input_layernorm",
                THEIRS + "post_attention_layernorm": OURS + "post_attention_layernorm",
                THEIRS + "self_attention.dense": OURS + "self_attn.o_proj",
                THEIRS + "mlp.dense_h_to_4h": OURS + "mlp.up_proj",
                THEIRS + "mlp.dense_4h_to_h": OURS + "mlp.down_proj",
            }
        ),
        *(
            fused_heads(THEIRS + "self_attention.query_key_value" + ending, tuple(name + ending for name in QKV))
            for ending in (".weight", ".bias")
        ),
    ),
)


def read(published: Published) -> ModelConfig:
    """UserError where a setting is missing, or asks for mathematics that the model does not have."""
    refuse_quantised(published)
    refuse_others(published, {"apply_residual_connection_post_layernorm": False})
    renamed = {theirs: published[other] for other, theirs in OTHER_NAMES.items() if other in published}
    values: dict[str, Any] = {**whole_numbers({"seq_length": 2048} | renamed | published, NAMES)}
    values |= given(published, OPTIONAL) | PARTS
    values |= {
        "intermediate_size": 4 * values["hidden_size"],
        "rms_norm_eps": given(published, {"layer_norm_epsilon": 1e-5})["layer_norm_epsilon"],
    }
    return ModelConfig.from_dict(values)


def write(config: ModelConfig) -> Published | None:
    """None for a width that the heads do not divide, which transformers' BLOOM refuses."""
    if not heads_divide(config):
        return None
    return {
        "architectures": [ARCHITECTURE],
        **{theirs: getattr(config, ours) for ours, theirs in NAMES.items()},
        "layer_norm_epsilon": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.dropout,
        **({"dropout": config.dropout} if config.dropout else {}),
    }
