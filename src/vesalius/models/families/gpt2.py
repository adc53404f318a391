"""The family `gpt2` (Radford et al. 2019): LayerNorm, learned positions, a plain GELU MLP, biases everywhere.

Its matrices are stored as (in, out), queries, keys and values in one. Left out: scores divided by the number of the
layer, and attention to a second text.
"""

from vesalius.models.config import ModelConfig
from vesalius.models.families.gpt_parts import QKV, read_values, write_values
from vesalius.models.families.published import (
    Published,
    activation,
    given,
    heads_divide,
    published_activation,
    refuse_others,
)
from vesalius.models.weight_map import WeightMap, fused_columns, fused_rows, qkv_rows, renames, transposed

ARCHITECTURE = "GPT2LMHeadModel"

NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
"""Ours -> theirs."""

EPSILON = "layer_norm_epsilon"

THEIRS, OURS = "transformer.h.{}.", "model.layers.{}."

WEIGHTS = WeightMap(
    base="transformer.",
    ignored=(r"\.attn\.(masked_)?bias$",),
    rules=(
        *renames(
            {
                "transformer.wte": "model.embed_tokens",
                "transformer.wpe": "model.embed_positions",
                "transformer.ln_f": "model.norm",
                THEIRS + "ln_1": OURS + "input_layernorm",
                THEIRS + "ln_2": OURS + "post_attention_layernorm",
            }
        ),
        *renames(
            {
                THEIRS + "attn.c_proj": OURS + "self_attn.o_proj",
                THEIRS + "mlp.c_fc": OURS + "mlp.up_proj",
                THEIRS + "mlp.c_proj": OURS + "mlp.down_proj",
            },
            (".bias",),
        ),
        transposed(THEIRS + "attn.c_proj.weight", OURS + "self_attn.o_proj.weight"),
        transposed(THEIRS + "mlp.c_fc.weight", OURS + "mlp.up_proj.weight"),
        transposed(THEIRS + "mlp.c_proj.weight", OURS + "mlp.down_proj.weight"),
        fused_columns(THEIRS + "attn.c_attn.weight", tuple(name + ".weight" for name in QKV), qkv_rows),
        fused_rows(THEIRS + "attn.c_attn.bias", tuple(name + ".bias" for name in QKV), qkv_rows),
    ),
)


def read(published: Published) -> ModelConfig:
    """UserError where a setting is missing, or asks for mathematics that the model does not have."""
    refuse_others(published, {"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False})
    values = read_values({"n_positions": 1024} | published, NAMES, EPSILON)
    values |= {
        "position": "learned",
        "intermediate_size": published.get("n_inner") or 4 * values["hidden_size"],
        "hidden_act": activation(published.get("activation_function") or "gelu_new"),
        "attention_multiplier": 0.0 if given(published, {"scale_attn_weights": True})["scale_attn_weights"] else 1.0,
    }
    return ModelConfig.from_dict(values)


def write(config: ModelConfig) -> Published | None:
    """None for a width that the heads do not divide."""
    if not heads_divide(config):
        return None
    return write_values(config, ARCHITECTURE, NAMES, EPSILON) | {
        "n_inner": config.intermediate_size,
        "activation_function": published_activation(config.hidden_act),
        "scale_attn_weights": config.attention_multiplier != 1.0,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
    }
