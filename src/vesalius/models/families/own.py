"""The family `vesalius`: every setting of ModelConfig under its own name. Only this package opens it."""

from typing import Any

from vesalius.models.config import ModelConfig

_NOT_SHAPE = {"model_type", "architectures", "dtype", "bos_token_id", "eos_token_id", "pad_token_id"}


def read(published: dict[str, Any]) -> ModelConfig:
    """UserError for a name that ModelConfig does not know."""
    return ModelConfig.from_dict({name: value for name, value in published.items() if name not in _NOT_SHAPE})


def write(config: ModelConfig) -> dict[str, Any]:
    """Always possible."""
    return config.to_dict()
