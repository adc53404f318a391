"""The family `gemma` (Gemma team 2024, arXiv:2403.08295, section 2): Llama with a scaled embedding, norms whose weights
count from 1, and a GELU gate.
"""

from dataclasses import replace
from typing import Any

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import Published

ARCHITECTURE = "GemmaForCausalLM"

DEFAULTS = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def read(published: Published) -> ModelConfig:
    """UserError as for Llama, and for attention to later tokens. `gelu` in early files meant its tanh approximation."""
    llama.refuse_bidirectional(published)
    config = llama.read(DEFAULTS | published | {"hidden_act": "gelu_pytorch_tanh"})
    return replace(config, **common(config))


def write(config: ModelConfig) -> Published:
    """As Llama; later versions of transformers read the activation from the one name, earlier ones from the other."""
    values = llama.without(llama.write_decoder(config, ARCHITECTURE), "mlp_bias")
    return values | {"hidden_activation": values["hidden_act"]}


def common(config: ModelConfig) -> dict[str, Any]:
    """What all Gemmas do to the embedding and in their norms."""
    return {"norm_offset": True, "embedding_multiplier": config.hidden_size**0.5}
