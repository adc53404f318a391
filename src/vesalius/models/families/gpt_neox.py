"""The family `gpt_neox`, Pythia too (Black et al. 2022, arXiv:2204.06745, section 2.1): LayerNorm, rotary positions in
a quarter of each head, a plain MLP beside the attention, biases everywhere.
"""

from vesalius.models.config import ModelConfig
from vesalius.models.families.gpt_parts import OPTIONAL, QKV, read_values, write_values
from vesalius.models.families.published import Published, activation, given, heads_divide, published_activation
from vesalius.models.families.rope import read_rope, write_rope
from vesalius.models.weight_map import WeightMap, fused_heads, rename, renames

ARCHITECTURE = "GPTNeoXForCausalLM"

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
NAMES = {name: name for name in REQUIRED}
OWN = {"max_position_embeddings": 2048, "attention_bias": True, "tie_word_embeddings": False}
EPSILON = "layer_norm_eps"

THEIRS, OURS = "gpt_neox.layers.{}.", "model.layers.{}."

WEIGHTS = WeightMap(
    base="gpt_neox.",
    ignored=(r"\.attention\.(masked_)?bias$",),
    rules=(
        rename("embed_out.weight", "lm_head.weight"),
        *renames(
            {
                "gpt_neox.embed_in": "model.embed_tokens",
                "gpt_neox.final_layer_norm": "model.norm",
                THEIRS + "input_layernorm": OURS + "input_layernorm",
                THEIRS + "post_attention_layernorm": OURS + "post_attention_layernorm",
                THEIRS + "attention.dense": OURS + "self_attn.o_proj",
                THEIRS + "mlp.dense_h_to_4h": OURS + "mlp.up_proj",
                THEIRS + "mlp.dense_4h_to_h": OURS + "mlp.down_proj",
            }
        ),
        *(
            fused_heads(THEIRS + "attention.query_key_value" + ending, tuple(name + ending for name in QKV))
            for ending in (".weight", ".bias")
        ),
    ),
)


def read(published: Published) -> ModelConfig:
    """UserError where a setting is missing, or asks for mathematics that the model does not have."""
    values = read_values(published, NAMES, EPSILON, OPTIONAL | OWN)
    old_names = {
        "rope_theta": published.get("rotary_emb_base"),
        "partial_rotary_factor": given(published, {"rotary_pct": 0.25})["rotary_pct"],
    }
    values |= read_rope(old_names | published, values["max_position_embeddings"])
    values |= {
        "attention_output_bias": values["attention_bias"],
        "block": "parallel" if given(published, {"use_parallel_residual": True})["use_parallel_residual"] else "pre",
        "hidden_act": activation(published.get("hidden_act") or "gelu"),
    }
    return ModelConfig.from_dict(values)


def write(config: ModelConfig) -> Published | None:
    """None for a width that the heads do not divide, which transformers' GPT-NeoX refuses."""
    if not heads_divide(config):
        return None
    rope = write_rope(config)
    return {
        **write_values(config, ARCHITECTURE, NAMES, EPSILON),
        **{name: getattr(config, name) for name in OWN},
        **{name: value for name, value in rope.items() if name in ("rope_scaling", "max_position_embeddings")},
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.partial_rotary_factor,
        "use_parallel_residual": config.block == "parallel",
        "hidden_act": published_activation(config.hidden_act),
    }
