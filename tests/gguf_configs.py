"""Small configs of every architecture that GGUF files have, as the families' own config files give them."""

import math
from dataclasses import replace

from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import LatentAttention, Mixture, RopeScaling

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
GEMMA = {
    "norm_offset": True,
    "hidden_act": "gelu_tanh",
    "embedding_multiplier": math.sqrt(64),
    "head_dim": 32,
    "tie_word_embeddings": True,
}
GPT2 = {
    "norm": "layer",
    "mlp": "plain",
    "hidden_act": "gelu_tanh",
    "num_key_value_heads": 4,
    "attention_bias": True,
    "attention_output_bias": True,
    "mlp_bias": True,
}
FACTORS = tuple(1 + i / 4 for i in range(8))
LONGROPE = RopeScaling(
    kind="longrope", factor=2.0, original_max_position_embeddings=32, short_factor=(1.0,) * 8, long_factor=FACTORS
)
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_max_position_embeddings=8192)
ALTERNATING = ("sliding_attention", "full_attention") * 2

MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = LatentAttention(kv_lora_rank=32, q_lora_rank=64, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=24)
DEEPSEEK = {
    "num_key_value_heads": 4,
    "head_dim": 16,
    "tie_word_embeddings": False,
    "latent_attention": LATENT,
}
DEEPSEEK_YARN = RopeScaling(
    kind="yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.707, mscale_all_dim=0.707
)
DEEPSEEK_V3 = Mixture(
    **MIXTURE | {"num_experts": 8},
    shared_expert_intermediate_size=32,
    scoring="sigmoid",
    routed_scaling_factor=2.5,
    n_group=4,
    topk_group=2,
    group_score="top2_sum",
    correction_bias=True,
    dense_layers=(0,),
)
DEEPSEEK_V2 = Mixture(
    **MIXTURE, shared_expert_intermediate_size=64, norm_topk_prob=False, routed_scaling_factor=1.5, dense_layers=(0, 1)
)
GPT_OSS = Mixture(**MIXTURE, scoring="softmax_topk", router_bias=True, expert_bias=True, swiglu_limit=7.0)

CONFIGS = {
    "llama": {"tie_word_embeddings": False, "rope_theta": 500_000.0},
    "llama, tied, biases, head_dim": {
        "head_dim": 24,
        "attention_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
    },
    "llama, llama3": {"rope_scaling": LLAMA3, "rope_theta": 500_000.0},
    "llama, linear": {"rope_scaling": RopeScaling(kind="linear", factor=2.0)},
    "llama, yarn": {
        "rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_max_position_embeddings=16),
    },
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": "head", "tie_word_embeddings": False},
    "gemma": GEMMA,
    "gemma2": GEMMA
    | {
        "block": "sandwich",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 8,
        "layer_types": ALTERNATING,
    },
    "gemma3": GEMMA
    | {
        "block": "sandwich",
        "qk_norm": "head",
        "num_hidden_layers": 6,
        "sliding_window": 8,
        "layer_types": ("sliding_attention",) * 5 + ("full_attention",),
        "rope_local_theta": 10_000.0,
        "rope_theta": 1_000_000.0,
    },
    "phi3": {"tie_word_embeddings": False, "rope_scaling": LONGROPE},
    "phi3, partial": {"partial_rotary_factor": 0.5},
    "smollm3": {"layers_without_rope": (3,)},
    "olmo2": {"block": "post", "qk_norm": "full", "tie_word_embeddings": False},
    "granite": {
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.25,
        "logits_scaling": 8.0,
        "attention_multiplier": 0.125,
    },
    "gpt2": GPT2 | {"position": "learned"},
    "gptneox": GPT2
    | {"block": "parallel", "hidden_act": "gelu", "partial_rotary_factor": 0.25, "tie_word_embeddings": False},
    "llama, mixtral": {
        "mixture": Mixture(**MIXTURE),
        "intermediate_size": 32,
        "tie_word_embeddings": False,
        "rope_theta": 1_000_000.0,
    },
    "qwen2moe": {
        "attention_bias": True,
        "tie_word_embeddings": False,
        "mixture": Mixture(
            **MIXTURE, norm_topk_prob=False, shared_expert_intermediate_size=64, shared_expert_gate=True
        ),
    },
    "qwen3moe": {"qk_norm": "head", "head_dim": 32, "tie_word_embeddings": False, "mixture": Mixture(**MIXTURE)},
    "deepseek2": DEEPSEEK | {"mixture": DEEPSEEK_V3},
    "deepseek2, v2, yarn": DEEPSEEK
    | {"mixture": DEEPSEEK_V2, "latent_attention": replace(LATENT, q_lora_rank=0), "rope_scaling": DEEPSEEK_YARN},
    "gpt-oss": {
        "attention_bias": True,
        "attention_output_bias": True,
        "attention_sinks": True,
        "tie_word_embeddings": False,
        "sliding_window": 8,
        "layer_types": ALTERNATING,
        "mixture": GPT_OSS,
    },
    "bloom": GPT2 | {"position": "alibi", "embedding_norm": True},
}
"""Name, up to a comma the architecture's -> what differs from SMALL."""


def config_named(name: str, **changes: object) -> ModelConfig:
    """The config of this name."""
    return ModelConfig(**(SMALL | CONFIGS[name] | changes))
