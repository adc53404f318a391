"""The family `llama`: RMSNorm, rotary positions, gated MLP. Touvron et al. 2023, arXiv:2302.13971, section 2.2.

transformers 4 wrote `rope_theta` and `rope_scaling`, transformers 5 writes both into `rope_parameters`; either is
read, and `rope_theta` is written because every version reads it. `dropout` is our own key: Llama's
`attention_dropout` covers only one of the places. Left out: scaled rotary positions (llama3, linear, dynamic, YaRN),
which change the frequencies.
"""

from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.models.config import ModelConfig

ARCHITECTURE = "LlamaForCausalLM"

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OPTIONAL = {
    "max_position_embeddings": 2048,
    "num_key_value_heads": 0,
    "head_dim": 0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "initializer_range": 0.02,
    "dropout": 0.0,
}
"""What a config.json that does not mention the setting means by it."""

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "relu2": "relu2"}
"""Published name -> ours."""


def read(published: dict[str, Any]) -> ModelConfig:
    """UserError where a setting is missing, or asks for mathematics that the model does not have."""
    for name in REQUIRED:
        if not isinstance(value := published.get(name), int):
            raise UserError(f"config.json has {name} = {value!r}, expected a whole number: is the file complete?")
    refuse_quantised(published)
    values = {name: published[name] for name in REQUIRED}
    values |= {name: default if (given := published.get(name)) is None else given for name, default in OPTIONAL.items()}
    values |= {
        "attention_output_bias": values["attention_bias"],
        "hidden_act": activation(published.get("hidden_act") or "silu"),
        "rope_theta": rope_theta(published),
    }
    return ModelConfig.from_dict(values)


def write(config: ModelConfig) -> dict[str, Any] | None:
    """None for a config with QK-norm, or a width that the heads do not divide, which transformers' Llama refuses."""
    if config.qk_norm != "none" or config.hidden_size % config.num_attention_heads:
        return None
    return write_decoder(config)


def write_decoder(config: ModelConfig) -> dict[str, Any] | None:
    """What Llama and its relatives have in common, or None where the config has other parts."""
    parts = (config.norm, config.block, config.position, config.mlp, config.final_logit_softcapping)
    if parts != ("rms", "pre", "rope", "gated", 0) or config.attention_bias != config.attention_output_bias:
        return None
    published = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    values = {name: getattr(config, name) for name in (*REQUIRED, *OPTIONAL) if name != "dropout"}
    values |= {
        "architectures": [ARCHITECTURE],
        "hidden_act": published[config.hidden_act],
        "rope_theta": config.rope_theta,
    }
    return values | ({"dropout": config.dropout} if config.dropout else {})


def activation(name: str) -> str:
    """Our name of a published activation; UserError for one that we do not have."""
    if name not in ACTIVATIONS:
        raise UserError(f"hidden_act {name!r} is not an activation that the model has, {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def rope_theta(published: dict[str, Any]) -> float:
    """The base of plain rotary positions, wherever it stands. UserError for scaled ones."""
    rope = published.get("rope_parameters") or published.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or published.get("partial_rotary_factor", 1.0) != 1.0:
        asked = f"rope scaling {kind!r}" if kind != "default" else "partial rotary positions"
        raise UserError(
            f"config.json asks for {asked}, which the model cannot compute yet; the nearest is rope_type 'default'"
        )
    return float(rope.get("rope_theta") or published.get("rope_theta") or 10_000.0)


def refuse_quantised(published: dict[str, Any]) -> None:
    """UserError where the weights are stored in a quantised format."""
    if quantised := published.get("quantization_config"):
        method = quantised.get("quant_method", "an unknown method")
        raise UserError(
            f"the weights are quantised by {method!r}, which cannot be opened; "
            "take the checkpoint in float32, bfloat16 or float16"
        )
