"""The family `phi3`, Phi-3 and Phi-4 (Abdin et al. 2024, arXiv:2404.14219, section 2): Llama with fused projections,
rotary positions in part of a head, and LongRoPE for the long contexts.
"""

from dataclasses import replace

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import SLIDING, Published, windows
from vesalius.models.weight_map import WeightMap, fused_rows, gate_up_rows, qkv_rows

ARCHITECTURE = "Phi3ForCausalLM"

DEFAULTS = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096}

ATTENTION, MLP = "model.layers.{}.self_attn.", "model.layers.{}.mlp."

WEIGHTS = WeightMap(
    rules=(
        fused_rows(
            ATTENTION + "qkv_proj.weight",
            (ATTENTION + "q_proj.weight", ATTENTION + "k_proj.weight", ATTENTION + "v_proj.weight"),
            qkv_rows,
        ),
        fused_rows(MLP + "gate_up_proj.weight", (MLP + "gate_proj.weight", MLP + "up_proj.weight"), gate_up_rows),
    )
)


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for another scaling than LongRoPE."""
    config = llama.read_decoder(DEFAULTS | published)
    if config.rope_scaling and config.rope_scaling.kind != "longrope":
        raise UserError(
            f"Phi-3 has rope scaling 'longrope' or none, got {config.rope_scaling.kind!r}: is the file right?"
        )
    window = published.get("sliding_window")
    return replace(config, **windows(window, [SLIDING] * config.num_hidden_layers))


def write(config: ModelConfig) -> Published:
    """As Llama. transformers 4 wants exactly three settings in `rope_scaling`, the original context outside."""
    values = llama.without(llama.write_decoder(config, ARCHITECTURE), "attention_bias", "mlp_bias", "head_dim")
    values |= {"sliding_window": config.sliding_window or None, "partial_rotary_factor": config.partial_rotary_factor}
    if scaling := config.rope_scaling:
        values["original_max_position_embeddings"] = scaling.original_max_position_embeddings
        values["rope_scaling"] = {
            "type": scaling.kind,
            "short_factor": list(scaling.short_factor),
            "long_factor": list(scaling.long_factor),
        }
    return values
