"""What each `general.architecture` of a GGUF file means: which parts our model takes, and where its tensors go.

A file says only numbers; everything else (which norm, where it stands, which activation, whether the rows of q and k
are permuted) follows from the architecture's name, as llama.cpp computes it (src/llama-model.cpp, the case of each
`LLM_ARCH_…`). Tensor names are stems: ".weight" and ".bias" stay as they are.
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

_LLAMA = _EMBEDDINGS | _PRE_NORMS | _ATTENTION | _GATED_MLP


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One architecture.

    parts              fields of ModelConfig that its name implies
    stems              stem of a stored tensor -> stems of ours, more than one where rows are fused; "{}" is the layer
    biases             biases and ties that llama.cpp insists on; others follow from the tensors that are there
    permuted           q and k rows are stored for rotating neighbours (2i, 2i+1), ours rotate (i, i + E/2)
    window_pattern     every n-th layer reads everything, the others `attention.sliding_window` keys
    step_without_rope  every n-th layer has no positions
    rope_factors       tensors with a factor for each frequency may stand in the file
    multipliers        Granite's scales stand in the metadata
    scale_of_27b       number of layers of the size whose scores are scaled by the width and not by the head
    """

    parts: Mapping[str, Any]
    stems: Mapping[str, tuple[str, ...]]
    biases: Mapping[str, bool] = field(default_factory=dict)
    permuted: bool = False
    window_pattern: int = 0
    step_without_rope: int = 0
    rope_factors: bool = False
    multipliers: bool = False
    scale_of_27b: int = 0


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
    "llama": Architecture(parts={}, stems=_LLAMA, permuted=True, rope_factors=True),
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
}

EXPERTS = ("llama4", "qwen2moe", "qwen3moe", "deepseek2", "gpt-oss", "granitemoe", "olmoe", "phimoe", "dbrx", "grok")
"""Architectures of experts, which open from a Hugging Face directory and not from GGUF."""
