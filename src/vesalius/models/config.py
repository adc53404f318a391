"""The shape of a model: everything that decides its parameters and its mathematics, and nothing about training or
serving.

Names are Hugging Face's, so a published config.json maps field by field (models/families). The `depth` dial follows
nanochat: one number gives a sensible model, width 64 × depth, heads of 64.
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

from vesalius.core.errors import UserError, nearest
from vesalius.models.config_sections import LatentAttention, Mixture, RopeScaling

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)

MOST, MOST_LAYERS = 2**31, 10_000
"""Far beyond the widest and deepest that were ever trained: a file that says more is damaged, and would only exhaust
the memory."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only Transformer: sizes, then parts, then numbers.

    `num_key_value_heads` below `num_attention_heads` is grouped-query attention, 1 is multi-query.
    `final_logit_softcapping` squeezes logits into ±cap by tanh (Gemma 2). `dropout` acts on embeddings, attention
    weights and residual branches.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int = 0  # 0: as many as num_attention_heads
    head_dim: int = 0  # 0: hidden_size / num_attention_heads
    intermediate_size: int = 0  # 0: 8/3 of the width for a gated MLP, 4 times for a plain one, rounded up to 32
    max_position_embeddings: int = 2048

    norm: Literal["rms", "layer"] = "rms"
    norm_offset: bool = False  # the norm's weight counts from 1 (Gemma)
    block: Literal["pre", "post", "sandwich", "parallel"] = "pre"
    position: Literal["rope", "learned", "alibi", "none"] = "rope"
    mlp: Literal["gated", "plain"] = "gated"
    hidden_act: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"] = "silu"
    qk_norm: Literal["none", "head", "full"] = "none"
    attention_bias: bool = False
    attention_output_bias: bool = False
    attention_sinks: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    embedding_norm: bool = False  # a norm behind the embedding (BLOOM)

    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    rope_local_theta: float = 0.0  # base of the sliding layers, unscaled (Gemma 3); 0: as the other layers
    partial_rotary_factor: float = 1.0
    layers_without_rope: tuple[int, ...] = ()
    sliding_window: int = 0  # keys that a query of a sliding layer reads, its own included; 0: no layer slides
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] = ()  # (): all slide where a window is set

    rms_norm_eps: float = 1e-5
    dropout: float = 0.0
    attention_multiplier: float = 0.0  # scale of the scores; 0: 1/√head_dim
    attn_logit_softcapping: float = 0.0  # 0: none
    final_logit_softcapping: float = 0.0  # 0: none
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0  # logits are divided by it
    initializer_range: float = 0.02

    latent_attention: LatentAttention | None = None
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        object.__setattr__(self, "num_key_value_heads", self.num_key_value_heads or self.num_attention_heads)
        object.__setattr__(self, "head_dim", self.head_dim or self._default_head_dim())
        object.__setattr__(self, "intermediate_size", self.intermediate_size or self._default_intermediate_size())
        self._check()
        self._check_parts()

    def _check_kinds(self) -> None:
        """UserError for a value that is not of the kind of its default: files hold anything."""
        for field in fields(self):
            value, default = getattr(self, field.name), 0 if field.default is MISSING else field.default
            kinds = (int, float) if isinstance(default, float) else type(default)
            wrong = isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, kinds)
            if default is not None and (wrong or (isinstance(value, float) and not math.isfinite(value))):
                raise UserError(f"{field.name} = {value!r:.60}: expected a value of the kind of {default!r}")

    def _default_head_dim(self) -> int:
        """Of the numbers that turn, where latent attention keeps these apart: so DeepSeek's configs count too."""
        if self.latent_attention:
            return self.latent_attention.qk_rope_head_dim
        return self.hidden_size // max(1, self.num_attention_heads)

    def _default_intermediate_size(self) -> int:
        width = self.hidden_size * (8 / 3 if self.mlp == "gated" else 4)
        return -int(-width // 32) * 32

    def _check(self) -> None:
        for name in SIZES:
            if not 1 <= getattr(self, name) <= MOST:
                limit = "at least 1" if getattr(self, name) < 1 else f"at most {MOST}"
                raise UserError(f"{name} must be {limit}, got {getattr(self, name)}")
        if self.num_hidden_layers > MOST_LAYERS:
            raise UserError(f"num_hidden_layers must be at most {MOST_LAYERS}, got {self.num_hidden_layers}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads}): each key/value head serves the same number of query heads"
            )
        for name in ("num_key_value_heads", "sliding_window", "rms_norm_eps", "initializer_range"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be in [0, 1), got {self.dropout}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"{name} = {getattr(self, name)!r}: {nearest(str(getattr(self, name)), known)}")

    def _check_parts(self) -> None:
        if self.position == "rope" and self.head_dim % 2:
            raise UserError(f"rotary positions turn pairs, so head_dim must be even, got {self.head_dim}")
        if self.layer_types and len(self.layer_types) != self.num_hidden_layers:
            raise UserError(
                f"layer_types has {len(self.layer_types)} entries, expected one for each of the "
                f"{self.num_hidden_layers} layers"
            )
        for kind in self.layer_types:
            if kind not in LAYER_TYPES:
                raise UserError(f"layer_types has {kind!r}, {nearest(str(kind), LAYER_TYPES)}")
        if self.norm_offset and self.norm != "rms":
            raise UserError(f"norm_offset needs norm = 'rms', got {self.norm!r}: only RMSNorm has weights from 1")
        if self.position == "rope" and (int(self.head_dim * self.partial_rotary_factor) % 2 or self.rope_theta <= 0):
            raise UserError(
                f"rotary positions turn pairs by a positive base, got partial_rotary_factor "
                f"{self.partial_rotary_factor} of head_dim {self.head_dim} and rope_theta {self.rope_theta}"
            )
        if not 0 < self.partial_rotary_factor <= 1:
            raise UserError(f"partial_rotary_factor must be in (0, 1], got {self.partial_rotary_factor}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML hold them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The config with these values; UserError for a name it does not know or one that is missing."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise UserError(f"unknown model setting {name!r}, {nearest(name, known)}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        try:
            for name in SECTIONS:
                if isinstance(value := values.get(name), dict):
                    values[name] = _section(name, value)
            return cls(**values)
        except TypeError as error:
            raise UserError(f"incomplete model config: {error}") from error


SECTIONS: dict[str, type[RopeScaling | LatentAttention | Mixture]] = {
    "rope_scaling": RopeScaling,
    "latent_attention": LatentAttention,
    "mixture": Mixture,
}


def _section(name: str, values: dict[str, Any]) -> RopeScaling | LatentAttention | Mixture:
    """The section with these values; UserError for a name that it does not know."""
    known = {field.name for field in fields(SECTIONS[name])}
    for key in values:
        if key not in known:
            raise UserError(f"unknown model setting {name}.{key}, {nearest(key, known)}")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return SECTIONS[name](**plain)


LAYER_TYPES = ("full_attention", "sliding_attention")

CHOICES = {
    "norm": ("rms", "layer"),
    "block": ("pre", "post", "sandwich", "parallel"),
    "position": ("rope", "learned", "alibi", "none"),
    "qk_norm": ("none", "head", "full"),
    "mlp": ("gated", "plain"),
    "hidden_act": ("silu", "gelu", "gelu_tanh", "relu", "relu2"),
}
