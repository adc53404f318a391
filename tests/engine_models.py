"""Tiny random models of several kinds whose greedy answers are varied, for tests of the engine."""

from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "initializer_range": 0.5,  # the default is so narrow that a random model repeats one token
    "tie_word_embeddings": False,
}
LATENT = {"kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
DYNAMIC = {"kind": "dynamic", "factor": 2.0, "original_max_position_embeddings": 24}
LONGROPE = {
    "kind": "longrope",
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 4.0, 7.0, 10.0],
}
KINDS: dict[str, dict] = {
    "grouped": {},
    "window": {"sliding_window": 9},
    "mixed window": {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "alibi": {"position": "alibi"},
    "learned": {"position": "learned", "norm": "layer", "mlp": "plain"},
    "sinks": {"attention_sinks": True},
    "latent": {"latent_attention": LATENT, "num_key_value_heads": 4},
    "dynamic": {"rope_scaling": DYNAMIC},
    "longrope": {"rope_scaling": LONGROPE},
}


def tiny_model(kind: str = "grouped") -> Transformer:
    """A model of that kind, always the same."""
    return Transformer(ModelConfig.from_dict(SIZES | KINDS[kind])).eval()
