"""What readers and writers of config.json share: sizes, defaults, activations, windows, and settings that are refused.

A reader says what the mathematics of its family is; these functions say what a single setting means.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.models.config import ModelConfig

Published = dict[str, Any]
"""What a config.json holds."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
"""Published name -> ours."""

SLIDING, FULL = "sliding_attention", "full_attention"


def whole_numbers(published: Published, names: Mapping[str, str]) -> dict[str, int]:
    """Our name -> number, for each of our names and theirs. UserError where one is missing or no whole number."""
    for theirs in names.values():
        if not isinstance(value := published.get(theirs), int):
            raise UserError(f"config.json has {theirs} = {value!r}, expected a whole number: is the file complete?")
    return {ours: published[theirs] for ours, theirs in names.items()}


def given(published: Published, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Each setting as published, or its default where the file does not mention it or says null."""
    return {name: default if (value := published.get(name)) is None else value for name, default in defaults.items()}


def activation(name: str) -> str:
    """Our name of a published activation; UserError for one that we do not have."""
    if name not in ACTIVATIONS:
        raise UserError(f"hidden_act {name!r} is not an activation that the model has, {nearest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


def published_activation(ours: str) -> str:
    """The first published name of our activation."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def refuse_others(published: Published, only: Mapping[str, Any]) -> None:
    """UserError for a setting that asks for anything but the one value that the model can compute."""
    for name, value in only.items():
        if (asked := published.get(name)) not in (None, value):
            raise UserError(
                f"config.json has {name} = {asked!r}, which the model cannot compute; the nearest is {value!r}"
            )


def refuse_quantised(published: Published) -> None:
    """UserError where the weights are stored in a quantised format."""
    if quantised := published.get("quantization_config"):
        method = quantised.get("quant_method", "an unknown method")
        raise UserError(
            f"the weights are quantised by {method!r}, which cannot be opened; "
            "take the checkpoint in float32, bfloat16 or float16"
        )


def windows(window: int | None, kinds: Sequence[str]) -> dict[str, Any]:
    """Which layers slide, as ModelConfig says it: no window where none slides, no list where all do.

    UserError for a kind of layer that the model does not have.
    """
    for kind in kinds:
        if kind not in (SLIDING, FULL):
            raise UserError(
                f"layer_types has {kind!r}, which the model cannot compute, {nearest(kind, (SLIDING, FULL))}"
            )
    if not window or SLIDING not in kinds:
        return {"sliding_window": 0, "layer_types": ()}
    return {"sliding_window": window, "layer_types": tuple(kinds) if FULL in kinds else ()}


def layer_types(config: ModelConfig) -> list[str]:
    """The kind of every layer, as published configs list it."""
    if config.layer_types:
        return list(config.layer_types)
    return [SLIDING if config.sliding_window else FULL] * config.num_hidden_layers


def heads_divide(config: ModelConfig) -> bool:
    """Whether the heads divide the width, which several of transformers' configs insist on."""
    return config.hidden_size % config.num_attention_heads == 0


def score_scale(published: float, head_dim: int) -> float:
    """A scale of attention scores as `attention_multiplier`, 0 where it is the usual one."""
    return 0.0 if published == head_dim**-0.5 else float(published)
