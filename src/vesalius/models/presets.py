"""Sizes to start from: one dial, `depth`, and a few names for shapes that are used often.

The dial keeps the proportions of nanochat (width 64 × depth) with heads of 64: depth 12 is GPT-2 small's shape, depth 4
trains in minutes on two cores. QK-norm is on: it costs little and lets the learning rate be higher (Wortsman et al.
2023, arXiv:2309.14322). A gated MLP of 8/3 of the width costs what a plain one of 4 times costs.
"""

from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.models.config import ModelConfig

HEAD_DIM = 64

PRESETS: dict[str, dict[str, Any]] = {
    "nano": {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
    "micro": {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 688},
    "mini": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8},
    "small": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "smollm2-135m": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "rope_theta": 100_000.0,
        "max_position_embeddings": 8192,
        "qk_norm": "none",
    },
    "llama3-8b": {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "rope_theta": 500_000.0,
        "max_position_embeddings": 8192,
        "qk_norm": "none",
        "tie_word_embeddings": False,
    },
}


def by_depth(depth: int, *, vocab_size: int, **changes: Any) -> ModelConfig:
    """The model that one number gives; `changes` are fields of ModelConfig that differ from it.

    >>> config = by_depth(12, vocab_size=32768)
    >>> config.hidden_size, config.num_attention_heads
    (768, 12)
    """
    if depth < 1:
        raise UserError(f"depth must be at least 1, got {depth}")
    shape = {"hidden_size": HEAD_DIM * depth, "num_hidden_layers": depth, "num_attention_heads": depth}
    return ModelConfig.from_dict({"vocab_size": vocab_size, "qk_norm": "head", **shape, **changes})


def by_name(name: str, *, vocab_size: int, **changes: Any) -> ModelConfig:
    """The named size with this vocabulary; UserError for a name that is not known."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}, {nearest(name, PRESETS)}")
    return ModelConfig.from_dict({"vocab_size": vocab_size, "qk_norm": "head", **PRESETS[name], **changes})
