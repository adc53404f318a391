"""The [adapter] section: what the tuning stages train in place of the whole model.

    lora, dora     changes of low rank        ia3            scales          prompt, prefix  virtual tokens
    bottleneck     small networks behind      freeze         a part of the model itself

Settings are those of the kind's config in `adapt`, by their names; one that another kind has is an error.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vesalius.adapt.bottleneck import BottleneckConfig, add_bottleneck
from vesalius.adapt.freezing import FreezeConfig, freeze
from vesalius.adapt.ia3 import IA3Config, add_ia3
from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.prefix import PrefixConfig, add_prefix
from vesalius.adapt.prompt import PromptConfig, add_prompt
from vesalius.core.errors import nearest
from vesalius.core.recipes import Section
from vesalius.models.transformer import Transformer

NAME = "default"
"""What a run calls its adapter."""

Names = list[str]
LOW_RANK = ("lora_r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern")
SETTINGS: dict[str, tuple[str, ...]] = {
    "lora": LOW_RANK,
    "dora": LOW_RANK,
    "ia3": ("target_modules", "feedforward_modules"),
    "bottleneck": ("bottleneck_size", "placement", "hidden_act", "target_modules"),
    "prompt": ("num_virtual_tokens",),
    "prefix": ("num_virtual_tokens",),
    "freeze": ("layers", "patterns"),
}


class AdapterSection(Section):
    """A kind, and those settings of it that are not its usual ones."""

    kind: Literal["lora", "dora", "ia3", "bottleneck", "prompt", "prefix", "freeze"] = "lora"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    lora_r: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    use_rslora: bool | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: Names | None = None
    feedforward_modules: Names | None = None
    bottleneck_size: int | None = None
    placement: Literal["houlsby", "pfeiffer"] | None = None
    hidden_act: str | None = None
    num_virtual_tokens: int | None = None
    layers: int | None = None
    patterns: Names | None = None

    @model_validator(mode="after")
    def _check(self) -> "AdapterSection":
        for name in self.given:
            if name not in SETTINGS[self.kind]:
                raise ValueError(f"{name} is no setting of {self.kind}, {nearest(name, SETTINGS[self.kind])}")
        CONFIGS[self.kind](**self.given)
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The settings as the kind's config takes them."""
        values = {name: value for name, value in self if name not in ("kind", "seed") and value is not None}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def apply(self, model: Transformer) -> None:
        """Puts the adapter around the model, or freezes a part of it, in place. UserError where the model has no such
        layers."""
        APPLY[self.kind](model, CONFIGS[self.kind](**self.given), self.seed)


def _dora(**settings: Any) -> LoraConfig:
    return LoraConfig(**settings, use_dora=True)


CONFIGS: dict[str, Callable[..., Any]] = {
    "lora": LoraConfig,
    "dora": _dora,
    "ia3": IA3Config,
    "bottleneck": BottleneckConfig,
    "prompt": PromptConfig,
    "prefix": PrefixConfig,
    "freeze": FreezeConfig,
}
APPLY: dict[str, Callable[[Transformer, Any, int], None]] = {
    "lora": lambda model, config, seed: add_lora(model, config, NAME, seed=seed),
    "dora": lambda model, config, seed: add_lora(model, config, NAME, seed=seed),
    "ia3": lambda model, config, _: add_ia3(model, config, NAME),
    "bottleneck": lambda model, config, seed: add_bottleneck(model, config, NAME, seed=seed),
    "prompt": lambda model, config, seed: add_prompt(model, config, NAME, seed=seed),
    "prefix": lambda model, config, seed: add_prefix(model, config, NAME, seed=seed),
    "freeze": lambda model, config, _: freeze(model, config),
}
