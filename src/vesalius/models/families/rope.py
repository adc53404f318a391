"""Rotary positions in config.json, plain or scaled, wherever the version that wrote the file put them.

transformers 4 wrote `rope_theta` and `rope_scaling`, transformers 5 writes both into `rope_parameters`; either is read.
`rope_theta` and `rope_scaling` are written, because every version reads them.
"""

from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import RopeScaling
from vesalius.models.families.published import Published

KINDS = {name: name for name in ("default", "linear", "dynamic", "yarn", "llama3", "longrope")} | {"su": "longrope"}
"""Published name -> ours. `su` is what the first Phi-3 models called it."""

KEYS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"),
}  # fmt: skip
"""The settings of each kind; names are the same on both sides."""

REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": (),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}


def read_rope(published: Published, context: int) -> dict[str, Any]:
    """`rope_theta`, `partial_rotary_factor`, `rope_scaling` and `max_position_embeddings` of a ModelConfig.

    `context` is the published max_position_embeddings. YaRN and dynamic scaling may reach beyond it: there it is the
    original context. UserError for a kind that we do not have, or that lacks a setting.
    """
    rope = published.get("rope_parameters") or published.get("rope_scaling") or {}
    asked = rope.get("rope_type", rope.get("type")) or "default"
    if asked not in KINDS:
        raise UserError(f"config.json asks for rope scaling {asked!r}, which the model lacks, {nearest(asked, KINDS)}")
    scaling = read_scaling(KINDS[asked], rope, context, published.get("original_max_position_embeddings"))
    if scaling and scaling.kind in ("dynamic", "yarn"):
        context = max(context, int(scaling.factor * scaling.original_max_position_embeddings))
    partial = rope.get("partial_rotary_factor") or published.get("partial_rotary_factor") or 1.0
    return {
        "rope_theta": float(rope.get("rope_theta") or published.get("rope_theta") or 10_000.0),
        "partial_rotary_factor": float(partial),
        "rope_scaling": scaling,
        "max_position_embeddings": context,
    }


def read_scaling(kind: str, rope: dict[str, Any], context: int, original: int | None) -> RopeScaling | None:
    """The scaling of this kind; None for plain rotary positions.

    The original context is `original` (Phi-3 has it outside), or what `rope` says, or `context`.
    """
    if kind == "default":
        return None
    if missing := [name for name in REQUIRED[kind] if rope.get(name) is None]:
        raise UserError(f"config.json asks for rope scaling {kind!r} without {missing[0]}: is the file complete?")
    values = {name: value for name in KEYS[kind] if (value := rope.get(name)) is not None}
    values = {name: tuple(map(float, value)) if isinstance(value, list) else value for name, value in values.items()}
    if kind == "dynamic":
        values["original_max_position_embeddings"] = context
    elif kind != "linear":
        values["original_max_position_embeddings"] = int(
            original or rope.get("original_max_position_embeddings") or context
        )
        values.setdefault("factor", context / values["original_max_position_embeddings"])
    return RopeScaling(kind=kind, **values)  # type: ignore[arg-type]  # KINDS has only kinds


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The values that `read_rope` reads, max_position_embeddings among them."""
    values: dict[str, Any] = {"rope_theta": config.rope_theta}
    if config.partial_rotary_factor != 1.0:
        values["partial_rotary_factor"] = config.partial_rotary_factor
    scaling = config.rope_scaling
    if scaling is None:
        return values
    unset = RopeScaling(kind=scaling.kind)
    settings = {name: getattr(scaling, name) for name in KEYS[scaling.kind]}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    required = ("factor", "original_max_position_embeddings", *REQUIRED[scaling.kind])
    values["rope_scaling"] = {"rope_type": scaling.kind} | {
        name: value for name, value in settings.items() if name in required or value != getattr(unset, name)
    }
    if scaling.kind == "dynamic" and scaling.original_max_position_embeddings:
        values["max_position_embeddings"] = scaling.original_max_position_embeddings
    return values
