"""The family `olmo2` (OLMo team 2025, arXiv:2501.00656, section 3): Llama with norms behind each branch, and on all
query and all key heads at once.
"""

from dataclasses import replace

from vesalius.models.config import ModelConfig
from vesalius.models.families import llama
from vesalius.models.families.published import Published

ARCHITECTURE = "Olmo2ForCausalLM"


def read(published: Published) -> ModelConfig:
    """UserError as for Llama."""
    config = llama.read({"rms_norm_eps": 1e-5} | published)
    return replace(config, block="post", qk_norm="full")


def write(config: ModelConfig) -> Published:
    """As Llama."""
    return llama.without(llama.write_decoder(config, ARCHITECTURE), "mlp_bias", "head_dim")
