"""The optional sections of a ModelConfig: scaled rotary positions, latent attention, and a mixture of experts.

Names are Hugging Face's where the families agree on one.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched to reach beyond the context that a model was first trained with.

    kind `linear` divides every frequency by `factor`; `dynamic` enlarges the base with the length (NTK); `yarn`
    (arXiv:2309.00071) and `llama3` interpolate by wavelength; `longrope` (arXiv:2402.13753) has a factor for each pair.
    `attention_factor` multiplies cos and sin; 0 means what the kind implies.
    """

    kind: Literal["linear", "dynamic", "yarn", "llama3", "longrope"]
    factor: float = 1.0
    original_max_position_embeddings: int = 0  # 0: max_position_embeddings
    attention_factor: float = 0.0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    mscale: float = 0.0  # yarn, as DeepSeek writes it
    mscale_all_dim: float = 0.0  # yarn, as DeepSeek writes it
    truncate: bool = True  # yarn: round the borders of the ramp to whole pairs
    short_factor: tuple[float, ...] = ()  # longrope
    long_factor: tuple[float, ...] = ()  # longrope


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention: keys and values are read from one narrow vector. DeepSeek-V2, arXiv:2405.04434, 2.1.

    A head's query and key are `qk_nope_head_dim` numbers without position and `qk_rope_head_dim` with; only
    `kv_lora_rank` + `qk_rope_head_dim` numbers a token need be cached. `q_lora_rank` 0: queries are not compressed.
    """

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A mixture of experts in place of the MLP. Shazeer et al. 2017, arXiv:1701.06538; DeepSeek-V3, arXiv:2412.19437.

    scoring            how router logits become scores; `softmax_topk` takes the softmax over the chosen experts only
    norm_topk_prob     the chosen scores are divided by their sum
    n_group            experts stand in groups, of which each token may use `topk_group`
    correction_bias    a bias that counts when experts are chosen and not in their weights (loss-free balancing)
    capacity_factor    0: no token is dropped; else an expert takes at most this share of tokens · k / experts
    dense_layers       layers that keep a plain MLP of `intermediate_size`
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int = 0  # 0: no shared expert
    shared_expert_gate: bool = False  # Qwen2-MoE: the shared expert is weighed by a sigmoid
    scoring: Literal["softmax", "sigmoid", "softmax_topk"] = "softmax"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    group_score: Literal["max", "top2_sum"] = "max"
    correction_bias: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    swiglu_limit: float = 0.0  # gpt-oss: clamps gate and up; 0: plain gated activation
    capacity_factor: float = 0.0
    dense_layers: tuple[int, ...] = ()
