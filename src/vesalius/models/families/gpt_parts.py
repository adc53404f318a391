"""What the families before Llama have in common (GPT-2, BLOOM, GPT-NeoX): LayerNorm, a plain MLP, biases everywhere,
and configs that are lists of numbers under names of their own.
"""

from collections.abc import Mapping
from typing import Any

from vesalius.models.config import ModelConfig
from vesalius.models.families.published import Published, given, refuse_quantised, whole_numbers

PARTS = {"norm": "layer", "mlp": "plain", "attention_bias": True, "attention_output_bias": True, "mlp_bias": True}

OPTIONAL = {"initializer_range": 0.02, "tie_word_embeddings": True, "dropout": 0.0}
"""Names that both sides share. `dropout` is our own key: theirs are those of a training that is over."""

QKV = tuple(f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv")
"""Our names of what their files keep in one matrix."""


def read_values(
    published: Published, names: Mapping[str, str], epsilon: str, optional: Mapping[str, Any] = OPTIONAL
) -> dict[str, Any]:
    """Fields of ModelConfig: the parts, the sizes by `names`, ours -> theirs, and the norm's `epsilon` by their name.

    UserError where a size is missing, and for quantised weights.
    """
    refuse_quantised(published)
    values = PARTS | whole_numbers(published, names) | given(published, optional)
    return values | {"rms_norm_eps": given(published, {epsilon: 1e-5})[epsilon]}


def write_values(config: ModelConfig, architecture: str, names: Mapping[str, str], epsilon: str) -> Published:
    """The way back, but for the parts."""
    return {
        "architectures": [architecture],
        **{theirs: getattr(config, ours) for ours, theirs in names.items()},
        epsilon: config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        **({"dropout": config.dropout} if config.dropout else {}),
    }
