"""The family `qwen3` (Qwen team 2025, arXiv:2505.09388, section 2): Llama with an RMSNorm on query and key heads."""

from dataclasses import replace

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import Published
from vesalius.models.families.qwen2 import read_windows, write_windows

ARCHITECTURE = "Qwen3ForCausalLM"

DEFAULTS = {"head_dim": 128, "num_key_value_heads": 32, "max_position_embeddings": 32_768}
"""A Qwen3 config that does not give head_dim means this, and not hidden_size / num_attention_heads."""


def read(published: Published) -> ModelConfig:
    """UserError as for Llama."""
    config = llama.read(DEFAULTS | published)
    return replace(config, qk_norm="head", **read_windows(published))


def write(config: ModelConfig) -> Published:
    """As Llama, with the windows."""
    return llama.without(llama.write_decoder(config, ARCHITECTURE), "mlp_bias") | write_windows(config)
