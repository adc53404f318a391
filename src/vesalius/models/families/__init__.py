"""Families: each small file maps a published config.json to a ModelConfig and back.

Parameter names are Hugging Face's in all of them, so weights need no map. `model_type` in config.json names the family.
What we save is written as the first family that can say all of it, so that transformers opens it; a config that no
published family can say (learned positions, a soft cap …) is written as `vesalius`, which only this package opens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.models.config import ModelConfig
from vesalius.models.families import llama, own, qwen3

Published = dict[str, Any]
"""What a config.json holds."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The two directions of one family.

    read   published values -> config; UserError for what the model cannot compute
    write  config -> published values, or None where the family cannot say all of it
    """

    read: Callable[[Published], ModelConfig]
    write: Callable[[ModelConfig], Published | None]


FAMILIES = {
    "llama": Family(read=llama.read, write=llama.write),
    "qwen3": Family(read=qwen3.read, write=qwen3.write),
    "vesalius": Family(read=own.read, write=own.write),
}


def read_config(published: Published) -> ModelConfig:
    """The config that a published config.json means. UserError for a family, or a part of one, that we do not have."""
    model_type = str(published.get("model_type"))
    if model_type not in FAMILIES:
        raise UserError(
            f"model_type {model_type!r} is not a family that can be opened, {nearest(model_type, FAMILIES)}"
        )
    return FAMILIES[model_type].read(published)


def write_config(config: ModelConfig) -> Published:
    """The config as the values of a config.json, `model_type` included, by the first family that can say all of it."""
    for model_type, family in FAMILIES.items():
        if (values := family.write(config)) is not None:
            return {"model_type": model_type} | values
    raise AssertionError("the family `vesalius` can say every config")
