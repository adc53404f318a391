"""The family `bloom` (BigScience 2022, arXiv:2211.05100, section 3.2): ALiBi, LayerNorm, one behind the embedding too,
a plain GELU MLP, biases everywhere.

ALiBi has no longest text; `seq_length`, which the published files carry, is taken for the context. Left out: the
residual read behind the norm, which no published model uses.
"""

from vesalius.models.config import ModelConfig
from vesalius.models.families.gpt_parts import QKV, read_values, write_values
from vesalius.models.families.published import Published, heads_divide, refuse_others
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

EPSILON = "layer_norm_epsilon"

THEIRS, OURS = "transformer.h.{}.", "model.layers.{}."

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
    refuse_others(published, {"apply_residual_connection_post_layernorm": False})
    renamed = {theirs: published[other] for other, theirs in OTHER_NAMES.items() if other in published}
    values = read_values({"seq_length": 2048} | renamed | published, NAMES, EPSILON)
    values |= {
        "position": "alibi",
        "hidden_act": "gelu_tanh",
        "embedding_norm": True,
        "intermediate_size": 4 * values["hidden_size"],
    }
    return ModelConfig.from_dict(values)


def write(config: ModelConfig) -> Published | None:
    """None for a width that the heads do not divide, which transformers' BLOOM refuses."""
    if not heads_divide(config):
        return None
    dropout = dict.fromkeys(("hidden_dropout", "attention_dropout"), config.dropout)
    return write_values(config, ARCHITECTURE, NAMES, EPSILON) | dropout
