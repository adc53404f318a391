"""A ModelConfig as the metadata of a GGUF file, by the first architecture that can say all of it.

Writing is checked by reading: an architecture can say a config if what it writes gives the same config back. So nothing
is lost in silence, and what llama.cpp has no architecture for is refused by name.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.hub.gguf.architectures import ARCHITECTURES, Architecture
from vesalius.hub.gguf.mixture_settings import write_latent, write_mixture
from vesalius.hub.gguf.settings import (
    LONG_FACTORS,
    NUMBERS,
    ROPE_FACTORS,
    SCALES,
    SHORT_FACTORS,
    SOFTCAPS,
    read_config,
)
from vesalius.kernels.rope import frequencies
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture, RopeScaling
from vesalius.models.latent_attention import LATENT_NORM_EPS
from vesalius.models.positions import rotary

TRAINING_ONLY = ("dropout", "initializer_range")
"""What no file says and no forward pass at inference reads."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A config as one architecture says it: metadata, tensors of rotary factors, and the fields that it cannot say."""

    name: str
    metadata: dict[str, Any]
    factors: dict[str, Tensor]
    lost: tuple[str, ...]


def write_config(config: ModelConfig) -> Written:
    """`config` by the first architecture that can say all of it. UserError where llama.cpp has none, with what the
    nearest cannot say.
    """
    tried = [write_config_as(name, config) for name in ARCHITECTURES]
    best = min(tried, key=lambda written: len(written.lost))
    if best.lost:
        given = ", ".join(f"{field} = {getattr(config, field)!r}" for field in best.lost[:3])
        raise UserError(
            f"llama.cpp has no architecture for this model: {best.name!r} is the nearest and cannot say {given}; "
            "export a Hugging Face directory in its place"
        )
    return best


def write_config_as(name: str, config: ModelConfig) -> Written:
    """`config` as this architecture says it, with what it cannot say."""
    architecture = ARCHITECTURES[name]
    metadata, factors = _written(name, architecture, config)
    wanted = _comparable(config)
    try:
        told = _comparable(read_config(metadata, _expected_names(architecture, config), factors))
    except UserError:  # what was written makes no sense to this architecture
        told = {}
    lost = [field for field, value in wanted.items() if field not in told or told[field] != value]
    lost += [field for field, needed in architecture.biases.items() if getattr(config, field) != needed]
    lost += [field for field in _computed_otherwise(architecture, config) if field not in lost]
    return Written(name=name, metadata=metadata, factors=factors, lost=tuple(lost))


def _computed_otherwise(architecture: Architecture, config: ModelConfig) -> list[str]:
    """Fields that the metadata can say and llama.cpp does not take, or computes in another way."""
    mixture, scaling = config.mixture, config.rope_scaling
    told = {
        "head_dim": architecture.square_heads and config.num_attention_heads * config.head_dim != config.hidden_size,
        "mixture": (architecture.latent and mixture is None)
        or (architecture.square_heads and mixture is not None and not mixture.shared_expert_intermediate_size),
        "rms_norm_eps": architecture.latent and f"{config.rms_norm_eps:.6g}" != f"{LATENT_NORM_EPS:.6g}",
        "rope_scaling": architecture.latent
        and scaling is not None
        and scaling.kind == "yarn"
        and not scaling.mscale_all_dim,
    }
    return [field for field, otherwise in told.items() if otherwise]


def _written(name: str, architecture: Architecture, config: ModelConfig) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything that this architecture can say about a config, true or not: reading tells whether it was all."""
    kind = "layer_norm_epsilon" if config.norm == "layer" else "layer_norm_rms_epsilon"
    values: dict[str, Any] = {key: getattr(config, ours) for key, ours in NUMBERS.items()}
    values["attention.value_length"] = config.head_dim
    values[f"attention.{kind}"] = config.rms_norm_eps
    if not architecture.window_pattern:
        del values["attention.sliding_window"]
    if config.position == "rope":
        values["rope.dimension_count"] = int(config.head_dim * config.partial_rotary_factor)
        values["rope.freq_base"] = config.rope_theta
    values |= {key: getattr(config, ours) for key, ours in SOFTCAPS.items() if getattr(config, ours)}
    if architecture.multipliers:
        values |= {key: getattr(config, ours) for key, ours in SCALES.items() if getattr(config, ours)}
    if architecture.mixture is not None and config.mixture:
        values |= write_mixture(architecture, config.mixture)
    if architecture.latent and config.latent_attention:
        values |= write_latent(config, config.latent_attention)
    if name == "gptneox":
        values["use_parallel_residual"] = config.block == "parallel"
    scaling, factors = _write_scaling(config, architecture)
    metadata = {f"{name}.{key}": value for key, value in (values | scaling).items()}
    return {"general.architecture": name} | metadata, factors


def _write_scaling(config: ModelConfig, architecture: Architecture) -> tuple[dict[str, Any], dict[str, Tensor]]:
    scaling = config.rope_scaling
    if scaling is None:
        return {}, {}
    original = scaling.original_max_position_embeddings
    values: dict[str, Any] = {"rope.scaling.original_context_length": original} if original else {}
    if scaling.kind in ("linear", "yarn"):
        return values | {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}, {}
    if not architecture.rope_factors or scaling.kind not in ("llama3", "longrope"):
        return {}, {}
    long, short = _factors(config)
    magnitude = rotary(config).attention_factor
    if long == short and magnitude == 1.0:
        return {}, {ROPE_FACTORS: torch.tensor(long)}
    values |= {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": magnitude}
    return values, {LONG_FACTORS: torch.tensor(long), SHORT_FACTORS: torch.tensor(short)}


def _expected_names(architecture: Architecture, config: ModelConfig) -> dict[str, int]:
    """The names by which a file of this config tells its vocabulary, its biases and its head."""
    fused = "blk.{}.attn_qkv" in architecture.stems
    told = {
        "blk.0.attn_qkv.bias" if fused else "blk.0.attn_q.bias": config.attention_bias,
        "blk.0.attn_output.bias": config.attention_output_bias,
        "blk.0.ffn_up.bias": config.mlp_bias,
        "output.weight": not config.tie_word_embeddings,
        "token_embd.weight": True,
        "blk.0.exp_probs_b.bias": config.mixture is not None and config.mixture.correction_bias,
    }
    return {name: config.vocab_size for name, there in told.items() if there}


def _comparable(config: ModelConfig) -> dict[str, Any]:
    """The fields that decide the logits, with numbers as a file keeps them and with one way to say each thing."""
    window = config.sliding_window
    slides = 0 < window < config.max_position_embeddings and "sliding_attention" in (
        config.layer_types or ("sliding_attention",)
    )
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind in ("llama3", "longrope"):
        long, short = _factors(config)
        scaling = RopeScaling(
            kind="longrope",
            original_max_position_embeddings=0 if long == short else scaling.original_max_position_embeddings,
            attention_factor=rotary(config).attention_factor,
            short_factor=short,
            long_factor=long,
        )
    every_layer = config.mixture is not None and not config.mixture.dense_layers
    config = replace(
        config,
        mixture=config.mixture and _comparable_mixture(config.mixture),
        latent_attention=config.latent_attention and replace(config.latent_attention, rope_interleave=True),
        intermediate_size=1 if every_layer else config.intermediate_size,  # nothing reads it
        rope_scaling=scaling,
        sliding_window=window if slides else 0,
        layer_types=config.layer_types if slides else (),
        rope_local_theta=config.rope_local_theta if slides else 0.0,
        attention_multiplier=config.attention_multiplier or config.head_dim**-0.5,
    )
    values = {name: value for name, value in asdict(config).items() if name not in TRAINING_ONLY}
    return {name: _as_stored(value) for name, value in values.items()}


def _comparable_mixture(mixture: Mixture) -> Mixture:
    """Without what matters in training only, and without settings of parts that are not there."""
    grouped = mixture.n_group > 1
    return replace(
        mixture,
        capacity_factor=0.0,
        topk_group=mixture.topk_group if grouped else 1,
        group_score=mixture.group_score if grouped else "max",
        shared_expert_gate=mixture.shared_expert_gate and mixture.shared_expert_intermediate_size > 0,
    )


def _as_stored(value: Any) -> Any:
    """Real numbers with the six digits that float32 surely keeps."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return tuple(_as_stored(item) for item in value)
    return {name: _as_stored(item) for name, item in value.items()} if isinstance(value, dict) else value


def _factors(config: ModelConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What divides each frequency beyond the original context and within it."""
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "longrope":
        return scaling.long_factor, scaling.short_factor
    turn = rotary(config)
    factors = tuple((frequencies(turn.size, turn.theta) / turn.inverse_frequencies).tolist())
    return factors, factors
