"""The family `qwen3` (Qwen team 2025, arXiv:2505.09388, section 2): Llama with an RMSNorm on every query and key head.

Left out: sliding-window layers, and the mixture-of-experts variant.
"""

from dataclasses import replace
from typing import Any

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.families import llama

ARCHITECTURE = "Qwen3ForCausalLM"

DEFAULT_HEAD_DIM = 128
"""A Qwen3 config that does not give head_dim means this, and not hidden_size / num_attention_heads."""


def read(published: dict[str, Any]) -> ModelConfig:
    """UserError as for Llama, and for sliding windows."""
    if published.get("use_sliding_window") or set(published.get("layer_types") or ()) - {"full_attention"}:
        raise UserError(
            "config.json asks for sliding-window layers, which the model cannot compute yet; "
            "the nearest is full attention"
        )
    config = llama.read({"max_position_embeddings": 32_768, "head_dim": DEFAULT_HEAD_DIM} | published)
    return replace(config, qk_norm="head")


def write(config: ModelConfig) -> dict[str, Any] | None:
    """None for a config without QK-norm or with biases in the MLP."""
    values = llama.write_decoder(config)
    if values is None or config.qk_norm != "head" or config.mlp_bias:
        return None
    return values | {"architectures": [ARCHITECTURE]}
