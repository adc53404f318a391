"""The optional sections of a ModelConfig: scaled rotary positions, latent attention, and a mixture of experts.

Names are Hugging Face's where the families agree on one.
"""

from dataclasses import dataclass
from typing import Literal

from vesalius.core.errors import UserError, nearest


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
    `rope_interleave` says that a published checkpoint pairs neighbouring rows where rotary positions turn; here the
    pairs are half a head apart, as everywhere, so it only matters when such files are read and written.
    """

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int = 0
    rope_interleave: bool = True

    def __post_init__(self) -> None:
        for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"latent_attention.{name} must be at least 1, got {getattr(self, name)}")
        if self.qk_rope_head_dim % 2:
            raise UserError(f"rotary positions turn pairs: qk_rope_head_dim must be even, got {self.qk_rope_head_dim}")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A mixture of experts in place of the MLP. Shazeer et al. 2017, arXiv:1701.06538; DeepSeek-V3, arXiv:2412.19437.

    scoring            how router logits become scores; `softmax_topk` takes the softmax over the chosen experts only
    norm_topk_prob     the chosen scores are divided by their sum
    n_group            experts stand in groups, of which each token may use `topk_group`
    correction_bias    a bias that counts when experts are chosen and not in their weights (loss-free balancing)
    swiglu_limit       above 0: gate and up are clamped and the activation is g · σ(alpha · g) · (u + 1) (gpt-oss)
    capacity_factor    0: no token is dropped; else, in training, an expert takes at most this many times tokens · k /
                       experts
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
    swiglu_limit: float = 0.0  # 0: plain gated activation
    swiglu_alpha: float = 1.702
    capacity_factor: float = 0.0
    dense_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "n_group", "topk_group"):
            if getattr(self, name) < 1:
                raise UserError(f"mixture.{name} must be at least 1, got {getattr(self, name)}")
        for name, known in MIXTURE_CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"mixture.{name} = {getattr(self, name)!r}: {nearest(str(getattr(self, name)), known)}")
        if self.num_experts % self.n_group or self.topk_group > self.n_group:
            raise UserError(
                f"{self.num_experts} experts in n_group = {self.n_group} groups of which topk_group = "
                f"{self.topk_group} are used: groups must be of one size, and no more used than there are"
            )
        if self.num_experts_per_tok > (reach := self.num_experts * self.topk_group // self.n_group):
            raise UserError(
                f"num_experts_per_tok = {self.num_experts_per_tok}, but a token reaches only {reach} experts: lower it"
            )
        if self.capacity_factor < 0:
            raise UserError(f"mixture.capacity_factor must not be negative, got {self.capacity_factor}")


MIXTURE_CHOICES = {"scoring": ("softmax", "sigmoid", "softmax_topk"), "group_score": ("max", "top2_sum")}
