"""What each `general.architecture` of a GGUF file means: which parts our model takes, and where its tensors go.

A file says only numbers; everything else (which norm, where it stands, which activation, whether the rows of q and k
are permuted) follows from the architecture's name, as llama.cpp computes it (src/llama-model.cpp, the case of each
`LLM_ARCH_…`). Most tensor names are stems: ".weight" and ".bias" stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LAYER = "model.layers.{}."

_EMBEDDINGS = {"token_embd": ("model.embed_tokens",), "output_norm": ("model.norm",), "output": ("lm_head",)}
_ATTENTION = {
    "blk.{}.attn_q": (LAYER + "self_attn.q_proj",),
    "blk.{}.attn_k": (LAYER + "self_attn.k_proj",),
    "blk.{}.attn_v": (LAYER + "self_attn.v_proj",),
    "blk.{}.attn_output": (LAYER + "self_attn.o_proj",),
}
_FUSED_ATTENTION = {
    "blk.{}.attn_qkv": tuple(LAYER + f"self_attn.{name}_proj" for name in "qkv"),
    "blk.{}.attn_output": (LAYER + "self_attn.o_proj",),
}
_QK_NORMS = {
    "blk.{}.attn_q_norm": (LAYER + "self_attn.q_norm",),
    "blk.{}.attn_k_norm": (LAYER + "self_attn.k_norm",),
}
_PRE_NORMS = {
    "blk.{}.attn_norm": (LAYER + "input_layernorm",),
    "blk.{}.ffn_norm": (LAYER + "post_attention_layernorm",),
}
_POST_NORMS = {
    "blk.{}.post_attention_norm": (LAYER + "post_attention_layernorm",),
    "blk.{}.post_ffw_norm": (LAYER + "post_feedforward_layernorm",),
}
_SANDWICH_NORMS = _POST_NORMS | {
    "blk.{}.attn_norm": (LAYER + "input_layernorm",),
    "blk.{}.ffn_norm": (LAYER + "pre_feedforward_layernorm",),
}
_PLAIN_MLP = {"blk.{}.ffn_up": (LAYER + "mlp.up_proj",), "blk.{}.ffn_down": (LAYER + "mlp.down_proj",)}
_GATED_MLP = _PLAIN_MLP | {"blk.{}.ffn_gate": (LAYER + "mlp.gate_proj",)}
_FUSED_MLP = {
    "blk.{}.ffn_up": (LAYER + "mlp.gate_proj", LAYER + "mlp.up_proj"),
    "blk.{}.ffn_down": (LAYER + "mlp.down_proj",),
}

_ROUTER = {"blk.{}.ffn_gate_inp": (LAYER + "mlp.gate",)}
_SHARED_EXPERT = {f"blk.{{}}.ffn_{n}_shexp": (LAYER + f"mlp.shared_expert.{n}_proj",) for n in ("gate", "up", "down")}
_LATENT_ATTENTION = {
    "blk.{}.attn_q": (LAYER + "self_attn.q_proj",),
    "blk.{}.attn_q_a": (LAYER + "self_attn.q_a_proj",),
    "blk.{}.attn_q_a_norm": (LAYER + "self_attn.q_a_layernorm",),
    "blk.{}.attn_q_b": (LAYER + "self_attn.q_b_proj",),
    "blk.{}.attn_kv_a_mqa": (LAYER + "self_attn.kv_a_proj_with_mqa",),
    "blk.{}.attn_kv_a_norm": (LAYER + "self_attn.kv_a_layernorm",),
    "blk.{}.attn_kv_b": (LAYER + "self_attn.kv_b_proj",),  # in two halves in today's files: latent_names.py
    "blk.{}.attn_output": (LAYER + "self_attn.o_proj",),
}

_EXPERTS = {f"blk.{{}}.ffn_{n}_exps.weight": LAYER + f"mlp.experts.{n}_proj" for n in ("gate", "up", "down")}
_EXPERT_BIASES = {f"blk.{{}}.ffn_{n}_exps.bias": LAYER + f"mlp.experts.{n}_proj_bias" for n in ("gate", "up", "down")}

_DECODER = _EMBEDDINGS | _PRE_NORMS | _ATTENTION
_LLAMA = _DECODER | _GATED_MLP


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture.

    parts              fields of ModelConfig that its name implies
    stems              stem of a stored tensor -> stems of ours, more than one where rows are fused; "{}" is the layer
    exact              whole name of a stored tensor -> whole name of ours, where endings differ
    biases             biases and ties that llama.cpp insists on; others follow from the tensors that are there
    permuted           q and k rows are stored for rotating neighbours (2i, 2i+1), ours rotate (i, i + E/2)
    window_pattern     every n-th layer reads everything, the others `attention.sliding_window` keys
    step_without_rope  every n-th layer has no positions
    rope_factors       tensors with a factor for each frequency may stand in the file
    multipliers        Granite's scales stand in the metadata
    scale_of_27b       number of layers of the size whose scores are scaled by the width and not by the head
    mixture            fields of Mixture that its name implies; None: it has no experts
    expert_width       the width of an expert stands in a key of its own
    latent             its attention is latent
    square_heads       all heads together are as wide as the model
    yarn_truncates     the borders of YaRN's ramp are whole pairs
    """

    parts: Mapping[str, Any]
    stems: Mapping[str, tuple[str, ...]]
    exact: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, bool] = field(default_factory=dict)
    permuted: bool = False
    window_pattern: int = 0
    step_without_rope: int = 0
    rope_factors: bool = False
    multipliers: bool = False
    scale_of_27b: int = 0
    mixture: Mapping[str, Any] | None = None
    expert_width: bool = True
    latent: bool = False
    square_heads: bool = False
    yarn_truncates: bool = True


_NO_BIAS = {"attention_bias": False, "attention_output_bias": False, "mlp_bias": False}
_ALL_BIAS = {"attention_bias": True, "attention_output_bias": True, "mlp_bias": True}
_GEMMA = {"norm_offset": True, "hidden_act": "gelu_tanh"}
_GPT2 = {"norm": "layer", "mlp": "plain", "hidden_act": "gelu_tanh"}

# The first that can say a config writes it, so those that insist on more stand first.
ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": Architecture(
        parts={},
        stems=_LLAMA,
        biases={"attention_bias": True, "attention_output_bias": False, "mlp_bias": False},
    ),
    "llama": Architecture(
        parts={},
        stems=_LLAMA | _ROUTER,
        exact=_EXPERTS,
        permuted=True,
        rope_factors=True,
        mixture={"norm_topk_prob": True},  # Mixtral
        expert_width=False,
    ),
    "qwen3": Architecture(parts={"qk_norm": "head"}, stems=_LLAMA | _QK_NORMS, biases=_NO_BIAS),
    "gemma": Architecture(parts=_GEMMA, stems=_LLAMA, biases=_NO_BIAS | {"tie_word_embeddings": True}),
    "gemma2": Architecture(
        parts=_GEMMA | {"block": "sandwich"},
        stems=_EMBEDDINGS | _SANDWICH_NORMS | _ATTENTION | _GATED_MLP,
        biases=_NO_BIAS | {"tie_word_embeddings": True},
        window_pattern=2,
        scale_of_27b=46,
    ),
    "gemma3": Architecture(
        parts=_GEMMA | {"block": "sandwich", "qk_norm": "head", "rope_local_theta": 10_000.0},
        stems=_EMBEDDINGS | _SANDWICH_NORMS | _ATTENTION | _QK_NORMS | _GATED_MLP,
        biases=_NO_BIAS | {"tie_word_embeddings": True},
        window_pattern=6,
        scale_of_27b=62,
    ),
    "phi3": Architecture(
        parts={},
        stems=_EMBEDDINGS | _PRE_NORMS | _FUSED_ATTENTION | _FUSED_MLP,
        biases=_NO_BIAS,
        rope_factors=True,
    ),
    "smollm3": Architecture(parts={}, stems=_LLAMA, biases=_NO_BIAS, permuted=True, step_without_rope=4),
    "olmo2": Architecture(
        parts={"block": "post", "qk_norm": "full"},
        stems=_EMBEDDINGS | _POST_NORMS | _ATTENTION | _QK_NORMS | _GATED_MLP,
        biases=_NO_BIAS | {"tie_word_embeddings": False},
    ),
    "granite": Architecture(parts={}, stems=_LLAMA, permuted=True, rope_factors=True, multipliers=True),
    "gpt2": Architecture(
        parts=_GPT2 | {"position": "learned"},
        stems=_EMBEDDINGS | {"position_embd": ("model.embed_positions",)} | _PRE_NORMS | _FUSED_ATTENTION | _PLAIN_MLP,
        biases=_ALL_BIAS,
    ),
    "gptneox": Architecture(
        parts=_GPT2 | {"block": "parallel", "hidden_act": "gelu"},
        stems=_EMBEDDINGS | _PRE_NORMS | _FUSED_ATTENTION | _PLAIN_MLP,
        biases=_ALL_BIAS | {"tie_word_embeddings": False},
    ),
    "bloom": Architecture(
        parts=_GPT2 | {"position": "alibi", "embedding_norm": True},
        stems=_EMBEDDINGS | {"token_embd_norm": ("model.embed_norm",)} | _PRE_NORMS | _FUSED_ATTENTION | _PLAIN_MLP,
        biases=_ALL_BIAS,
    ),
    "qwen2moe": Architecture(
        parts={},
        stems=_DECODER | _ROUTER | _SHARED_EXPERT | {"blk.{}.ffn_gate_inp_shexp": (LAYER + "mlp.shared_expert_gate",)},
        exact=_EXPERTS,
        biases={"attention_output_bias": False, "mlp_bias": False, "tie_word_embeddings": False},
        mixture={"norm_topk_prob": False, "shared_expert_gate": True},
        square_heads=True,
    ),
    "qwen3moe": Architecture(
        parts={"qk_norm": "head"},
        stems=_DECODER | _QK_NORMS | _ROUTER,
        exact=_EXPERTS,
        biases=_NO_BIAS,
        mixture={"norm_topk_prob": True},
    ),
    "deepseek2": Architecture(
        parts={},
        stems=_EMBEDDINGS | _PRE_NORMS | _LATENT_ATTENTION | _GATED_MLP | _ROUTER | _SHARED_EXPERT,
        exact=_EXPERTS | {"blk.{}.exp_probs_b.bias": LAYER + "mlp.gate.e_score_correction_bias"},
        biases=_NO_BIAS,
        mixture={},
        latent=True,
    ),
    "gpt-oss": Architecture(
        parts={"attention_sinks": True},
        stems=_EMBEDDINGS
        | {
            "blk.{}.attn_norm": (LAYER + "input_layernorm",),
            "blk.{}.post_attention_norm": (LAYER + "post_attention_layernorm",),
        }
        | _ATTENTION
        | _ROUTER,
        exact=_EXPERTS | _EXPERT_BIASES | {"blk.{}.attn_sinks.weight": LAYER + "self_attn.sinks"},
        biases={"attention_output_bias": True, "mlp_bias": False, "tie_word_embeddings": False},
        window_pattern=2,
        mixture={
            "scoring": "softmax_topk",
            "norm_topk_prob": True,
            "router_bias": True,
            "expert_bias": True,
            "swiglu_limit": 7.0,
        },
        yarn_truncates=False,  # as OpenAI computes; llama.cpp rounds the borders
    ),
}
