"""The metadata of a GGUF file as a ModelConfig. What an architecture's name implies stands in `architectures.py`; here
are the numbers.

Keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Those of experts and latent attention: mixture_settings.py.
Left out: recurrent layers.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vesalius.core.errors import UserError, nearest
from vesalius.hub.gguf.architectures import ARCHITECTURES, Architecture
from vesalius.hub.gguf.metadata_numbers import Metadata, Numbers
from vesalius.hub.gguf.mixture_settings import read_latent, read_magnitude, read_mixture
from vesalius.kernels.rope import frequencies
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import RopeScaling
from vesalius.models.positions import Rotary

NUMBERS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
}
"""Whole numbers: key behind the architecture's name -> field of ModelConfig."""

REQUIRED = ("context_length", "embedding_length", "block_count", "attention.head_count")

SCALES = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "attention.scale": "attention_multiplier",
}
SOFTCAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}

ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS = (
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
)
"""Tensors that divide the rotary frequencies pair by pair: Llama 3's, and the two of LongRoPE."""

Tensors = Mapping[str, Tensor]


def architecture_of(metadata: Metadata) -> tuple[str, Architecture]:
    """The architecture that a file names. UserError for one that we do not have."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UserError(
            f"the file's architecture {name!r} is not one that can be opened, {nearest(str(name), ARCHITECTURES)}"
        )
    return name, ARCHITECTURES[name]


def read_config(metadata: Metadata, names: Mapping[str, int], factors: Tensors) -> ModelConfig:
    """The config of a file.

    names    the stored tensors, each with its number of rows: they tell biases, a tied head and the vocabulary
    factors  the tensors that scale rotary frequencies, as far as there are any
    UserError for what is missing, of the wrong kind, or beyond our model.
    """
    name, architecture = architecture_of(metadata)
    numbers = Numbers(metadata, name)
    values: dict[str, Any] = {ours: numbers.whole(theirs) for theirs, ours in NUMBERS.items()}
    mixture = read_mixture(architecture, numbers, names)
    for key in (*REQUIRED, *(() if mixture else ("feed_forward_length",))):
        if not values[NUMBERS[key]]:
            raise UserError(f"the file has no {name}.{key}: it is incomplete, fetch it again")
    values["mixture"] = mixture
    values["vocab_size"] = names.get("token_embd.weight", 0)
    if architecture.latent:
        values |= read_latent(numbers)
    elif numbers.whole("attention.value_length") not in (0, values["head_dim"]):
        raise UserError("values of another width than keys cannot be opened: the model has one head_dim")
    values["head_dim"] = values["head_dim"] or values["hidden_size"] // max(1, values["num_attention_heads"])
    kind = "layer_norm_epsilon" if architecture.parts.get("norm") == "layer" else "layer_norm_rms_epsilon"
    values["rms_norm_eps"] = numbers.real(f"attention.{kind}", 1e-5)
    values |= {ours: numbers.real(theirs, 0.0) for theirs, ours in SOFTCAPS.items()}
    values |= architecture.parts
    values |= _biases(names)
    values |= _implied(architecture, values)
    if values.get("position", "rope") == "rope":
        values |= _read_rope(architecture, numbers, values, factors)
    if architecture.multipliers:
        values |= {ours: given for theirs, ours in SCALES.items() if (given := numbers.real(theirs, 0.0))}
    if name == "gptneox" and not metadata.get("gptneox.use_parallel_residual", True):
        values["block"] = "pre"
    return ModelConfig(**values)


def _biases(names: Mapping[str, int]) -> dict[str, bool]:
    return {
        "attention_bias": "blk.0.attn_q.bias" in names or "blk.0.attn_qkv.bias" in names,
        "attention_output_bias": "blk.0.attn_output.bias" in names,
        "mlp_bias": "blk.0.ffn_up.bias" in names,
        "tie_word_embeddings": "output.weight" not in names,
    }


def _implied(architecture: Architecture, values: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from an architecture and its sizes: scaled embeddings, windows, layers without positions."""
    layers, width, heads = (values[name] for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    implied: dict[str, Any] = {}
    if values.get("norm_offset"):
        implied["embedding_multiplier"] = math.sqrt(width)
    if architecture.scale_of_27b == layers:
        implied["attention_multiplier"] = (width // heads) ** -0.5
    pattern = architecture.window_pattern
    if pattern and values["sliding_window"]:
        implied["layer_types"] = tuple(
            "full_attention" if i % pattern == pattern - 1 else "sliding_attention" for i in range(layers)
        )
    elif not values["sliding_window"] and "rope_local_theta" in values:
        implied["rope_local_theta"] = 0.0
    if step := architecture.step_without_rope:
        implied["layers_without_rope"] = tuple(range(step - 1, layers, step))
    return implied


def _read_rope(
    architecture: Architecture, numbers: Numbers, values: Mapping[str, Any], factors: Tensors
) -> dict[str, Any]:
    turned = numbers.whole("rope.dimension_count") or values["head_dim"]
    if architecture.permuted and turned != values["head_dim"]:
        raise UserError(
            f"the file turns {turned} of {values['head_dim']} numbers of a head, which its architecture cannot: "
            "it is damaged"
        )
    theta = numbers.real("rope.freq_base", 10_000.0)
    return {
        "rope_theta": theta,
        "partial_rotary_factor": turned / values["head_dim"],
        "rope_scaling": _read_scaling(architecture, numbers, turned // 2, theta, factors),
    }


def _read_scaling(
    architecture: Architecture, numbers: Numbers, pairs: int, theta: float, factors: Tensors
) -> RopeScaling | None:
    kind, factor = numbers.text("rope.scaling.type"), numbers.real("rope.scaling.factor", 1.0)
    original = numbers.whole("rope.scaling.original_context_length")
    for name, tensor in factors.items():
        if tensor.numel() != pairs:
            raise UserError(f"{name} has {tensor.numel()} factors, expected one for each of {pairs} pairs")
    if ROPE_FACTORS in factors:
        return _by_factors(factors[ROPE_FACTORS], theta)
    if LONG_FACTORS in factors and SHORT_FACTORS in factors:
        return RopeScaling(
            kind="longrope",
            original_max_position_embeddings=original,
            attention_factor=numbers.real("rope.scaling.attn_factor", 1.0),
            short_factor=tuple(factors[SHORT_FACTORS].tolist()),
            long_factor=tuple(factors[LONG_FACTORS].tolist()),
        )
    if kind == "yarn":
        magnitude = read_magnitude(numbers) if architecture.latent else 0.0
        return RopeScaling(
            kind="yarn",
            factor=factor,
            original_max_position_embeddings=original,
            beta_fast=numbers.real("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=numbers.real("rope.scaling.yarn_beta_slow", 1.0),
            mscale=magnitude,
            mscale_all_dim=magnitude,
            truncate=architecture.yarn_truncates,
        )
    if kind == "linear" and factor != 1.0:
        return RopeScaling(kind="linear", factor=factor)
    if kind not in ("", "none", "linear", "longrope"):
        raise UserError(f"rope.scaling.type {kind!r} is not one that can be opened, known: linear, yarn, longrope")
    return None


def _by_factors(factors: Tensor, theta: float) -> RopeScaling:
    """The scaling that divides frequencies by these factors: by name where it is what Llama 3.1 and later publish."""
    named = RopeScaling(kind="llama3", factor=float(factors.max()), original_max_position_embeddings=8192)
    plain = frequencies(2 * len(factors), theta)
    stretched = Rotary(2 * len(factors), theta, named, named.original_max_position_embeddings).inverse_frequencies
    if torch.allclose(plain / stretched, factors.float(), rtol=1e-5):
        return named
    same = tuple(factors.tolist())
    return RopeScaling(kind="longrope", attention_factor=1.0, short_factor=same, long_factor=same)
