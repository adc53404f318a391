"""Families: each small file maps a published config.json to a ModelConfig and back, and its weight names to ours.

Our parameter names are Hugging Face Llama's, so most families need few rules. `model_type` in config.json names the
family. What we save is written as the first family that can say all of it, so that transformers opens it; a config that
no published family can say is written as `vesalius`, which only this package opens.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from vesalius.core.errors import UserError, nearest
from vesalius.models.config import ModelConfig
from vesalius.models.families import (
    bloom,
    deepseek_v2,
    deepseek_v3,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite,
    llama,
    mistral,
    mixtral,
    olmo2,
    own,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    smollm3,
)
from vesalius.models.families.published import Published
from vesalius.models.weight_map import WeightMap


@dataclass(frozen=True, kw_only=True)
class Family:
    """The two directions of one family.

    read     published values -> config; UserError for what the model cannot compute
    write    config -> published values; None where the family cannot say the config. Whether it said all of it is
             checked by reading it again
    weights  published tensors -> ours, and back
    """

    read: Callable[[Published], ModelConfig]
    write: Callable[[ModelConfig], Published | None]
    weights: WeightMap = field(default_factory=WeightMap)


FAMILIES = {
    "llama": Family(read=llama.read, write=llama.write),
    "mistral": Family(read=mistral.read, write=mistral.write),
    "qwen2": Family(read=qwen2.read, write=qwen2.write),
    "qwen3": Family(read=qwen3.read, write=qwen3.write),
    "smollm3": Family(read=smollm3.read, write=smollm3.write),
    "gemma": Family(read=gemma.read, write=gemma.write),
    "gemma2": Family(read=gemma2.read, write=gemma2.write),
    "gemma3_text": Family(read=gemma3.read, write=gemma3.write),
    "gemma3": Family(
        read=gemma3.read_image_and_text, write=gemma3.write_image_and_text, weights=gemma3.IMAGE_AND_TEXT_WEIGHTS
    ),
    "olmo2": Family(read=olmo2.read, write=olmo2.write),
    "granite": Family(read=granite.read, write=granite.write),
    "phi3": Family(read=phi3.read, write=phi3.write, weights=phi3.WEIGHTS),
    "gpt2": Family(read=gpt2.read, write=gpt2.write, weights=gpt2.WEIGHTS),
    "gpt_neox": Family(read=gpt_neox.read, write=gpt_neox.write, weights=gpt_neox.WEIGHTS),
    "bloom": Family(read=bloom.read, write=bloom.write, weights=bloom.WEIGHTS),
    "mixtral": Family(read=mixtral.read, write=mixtral.write, weights=mixtral.WEIGHTS),
    "qwen2_moe": Family(read=qwen2_moe.read, write=qwen2_moe.write, weights=qwen2_moe.WEIGHTS),
    "qwen3_moe": Family(read=qwen3_moe.read, write=qwen3_moe.write, weights=qwen3_moe.WEIGHTS),
    "deepseek_v2": Family(read=deepseek_v2.read, write=deepseek_v2.write, weights=deepseek_v2.WEIGHTS),
    "deepseek_v3": Family(read=deepseek_v3.read, write=deepseek_v3.write, weights=deepseek_v3.WEIGHTS),
    "gpt_oss": Family(read=gpt_oss.read, write=gpt_oss.write, weights=gpt_oss.WEIGHTS),
    "vesalius": Family(read=own.read, write=own.write),
}


def family_of(published: Published) -> Family:
    """The family that a config.json names. UserError for one that we do not have."""
    model_type = str(published.get("model_type"))
    if model_type not in FAMILIES:
        raise UserError(
            f"model_type {model_type!r} is not a family that can be opened, {nearest(model_type, FAMILIES)}"
        )
    return FAMILIES[model_type]


def read_config(published: Published) -> ModelConfig:
    """The config that a published config.json means. UserError for a family, or a part of one, that we do not have, and
    for values of a wrong kind.
    """
    family = family_of(published)
    try:
        return family.read(published)
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"config.json holds a value that a model of type {published['model_type']!r} cannot have ({error}): "
            "it is damaged, fetch it again"
        ) from error


def write_config(config: ModelConfig) -> Published:
    """The config as the values of a config.json, `model_type` included, by the first family that can say all of it."""
    for model_type, family in FAMILIES.items():
        values = family.write(config)
        if values is not None and _says(family, values, config):
            return {"model_type": model_type} | values
    raise AssertionError("the family `vesalius` can say every config")


def _says(family: Family, values: Published, config: ModelConfig) -> bool:
    """Whether reading what was written gives the config back: nothing else proves that nothing is lost."""
    try:
        return family.read(values) == config
    except UserError:
        return False
