"""The change of low rank that LoRA and its kin learn for one linear layer: s · B A. Its lesson is in adapt/lora."""

import math
from typing import Self

import torch
from torch import Tensor, nn

from vesalius.adapt.adapted_linear import LinearAdapter
from vesalius.adapt.targets import LinearLayer, placement_of
from vesalius.kernels.linear import linear


class LowRank(LinearAdapter):
    """A (rank, I) is drawn, B (O, rank) is 0."""

    def __init__(
        self, base: LinearLayer, *, rank: int, scale: float, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        device, dtype = placement_of(base)
        bound = 1 / math.sqrt(base.in_features)
        first = torch.empty(rank, base.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first.to(device, dtype))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=device, dtype=dtype))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def of(cls, base: LinearLayer, lora_A: Tensor, lora_B: Tensor, *, scale: float = 1.0, dropout: float = 0.0) -> Self:
        """With these factors."""
        made = cls(base, rank=len(lora_A), scale=scale, dropout=dropout, generator=torch.Generator())
        with torch.no_grad():
            made.lora_A.copy_(lora_A)
            made.lora_B.copy_(lora_B)
        return made

    def forward(self, x: Tensor, y: Tensor, base: LinearLayer) -> Tensor:
        return self.product(self.dropout(x)).to(y.dtype)

    def product(self, x: Tensor) -> Tensor:
        """s · B (A x): (…, I) -> (…, O)."""
        return linear(linear(x.to(self.lora_A.dtype), self.lora_A), self.lora_B) * self.scale

    def weight_change(self, base: LinearLayer) -> tuple[Tensor, Tensor | None]:
        return self.scale * (self.lora_B @ self.lora_A), None

    def extra_repr(self) -> str:
        return f"rank={len(self.lora_A)}, scale={self.scale:g}"
