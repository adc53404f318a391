"""LoRA: a linear layer learns a change of low rank. Hu et al. 2021, arXiv:2106.09685, section 4.1.

    y = W x + s · B (A x),   A (r, I) drawn as a linear layer's weights are, B (O, r) = 0,   s = alpha / r

With B = 0 the change is 0, so training starts at the model itself, bit for bit. rsLoRA (Kalajdzievski 2023,
arXiv:2312.03732) takes s = alpha / √r, which keeps the change's size where r grows. Left out: trained biases, LoRA on
embeddings, and on the experts of a mixture that are stacked in one tensor.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import nn

from vesalius.adapt.dora import Dora
from vesalius.adapt.low_rank import LowRank
from vesalius.adapt.switch import add
from vesalius.adapt.targets import ALL_LINEAR, LinearLayer, matches
from vesalius.core.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which layers learn how much. UserError where a setting is out of its range.

    lora_r         rank of the change
    lora_alpha     its weight: s = alpha / r, with use_rslora alpha / √r
    lora_dropout   of x before A, in training
    use_dora       learns the length of each row of the weight apart (adapt/dora)
    target_modules patterns of linear layers (adapt/targets)
    rank_pattern   other ranks, by pattern; the last that matches counts
    alpha_pattern  other alphas likewise
    """

    lora_r: int = 16
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: tuple[str, ...] = (ALL_LINEAR,)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, rank in {"lora_r": self.lora_r, **self.rank_pattern}.items():
            if rank < 1:
                raise UserError(f"{name} = {rank}, expected a rank from 1")
        if not 0 <= self.lora_dropout < 1:
            raise UserError(f"lora_dropout = {self.lora_dropout}, expected 0 to below 1")

    def rank(self, layer: str) -> int:
        """Of the change of the layer of this name."""
        return _last_match(layer, self.rank_pattern, self.lora_r)

    def scale(self, layer: str) -> float:
        """The s of that layer."""
        rank = self.rank(layer)
        return _last_match(layer, self.alpha_pattern, self.lora_alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def add_lora(model: nn.Module, config: LoraConfig, name: str = "default", *, seed: int = 0) -> None:
    """Puts a LoRA, or with `use_dora` a DoRA, around the layers that the config picks, in place, and freezes the rest.

    It starts as no change at all, bit for bit. UserError where a pattern matches nothing, or the name is taken.
    """
    generator, kind = torch.Generator().manual_seed(seed), Dora if config.use_dora else LowRank

    def make(path: str, layer: LinearLayer) -> LowRank:
        rank, scale = config.rank(path), config.scale(path)
        return kind(layer, rank=rank, scale=scale, dropout=config.lora_dropout, generator=generator)

    add(model, name, config.target_modules, make)


def _last_match(layer: str, patterns: Mapping[str, T], otherwise: T) -> T:
    matching = [value for pattern, value in patterns.items() if matches(layer, pattern)]
    return matching[-1] if matching else otherwise
