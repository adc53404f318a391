"""DoRA: direction and length of each row of the weight learn apart. Liu et al. 2024, arXiv:2402.09353, eq. 5 and 11.

    y = m / n ⊙ (W x + s · B A x) + b,   n_i = ‖W_i + s (B A)_i‖,   m learned, at first ‖W_i‖

n counts as a constant in the gradient (section 4.3). The sum W + s B A is never formed:

    n_i² = ‖W_i‖² + 2 s B_i · (A Wᵀ)ᵀ_i + s² B_i (A Aᵀ) B_iᵀ

where A Wᵀ is what the base layer makes of the rows of A: a product of r rows, for quantised weights too.
"""

import torch
from torch import Tensor, nn

from vesalius.adapt.low_rank import LowRank
from vesalius.adapt.targets import LinearLayer, weight_of


class Dora(LowRank):
    """The change of one layer: (m / n - 1) ⊙ W x + m / n ⊙ s · B A x."""

    squares: Tensor

    def __init__(
        self, base: LinearLayer, *, rank: int, scale: float, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__(base, rank=rank, scale=scale, dropout=dropout, generator=generator)
        with torch.no_grad():
            squares = weight_of(base).to(self.lora_A.dtype).square().sum(1)  # (O,)
        self.register_buffer("squares", squares, persistent=False)
        self.lora_magnitude_vector = nn.Parameter(squares.sqrt())

    def forward(self, x: Tensor, y: Tensor, base: LinearLayer) -> Tensor:
        ratio = self._ratio(base)
        if self.training and self.dropout.p:
            x = self.dropout(x)
            y = base(x)
        product = y if base.bias is None else y - base.bias  # W x
        return ((ratio - 1) * product + ratio * self.product(x)).to(y.dtype)

    def with_base(self, x: Tensor, base: nn.Linear) -> Tensor | None:
        return None

    def weight_change(self, base: LinearLayer) -> tuple[Tensor, Tensor | None]:
        weight, ratio = weight_of(base), self._ratio(base).unsqueeze(1)  # (O, I), (O, 1)
        return (ratio - 1) * weight + ratio * (self.scale * (self.lora_B @ self.lora_A)), None

    def _ratio(self, base: LinearLayer) -> Tensor:
        """m / n, (O,)."""
        with torch.no_grad():
            crossed = base(self.lora_A.to(base.weight.dtype if isinstance(base, nn.Linear) else base.dtype))  # (r, O)
            crossed = (crossed if base.bias is None else crossed - base.bias).to(self.lora_B.dtype)
            inner = self.lora_B @ (self.lora_A @ self.lora_A.T)  # (O, r)
            lengths = self.squares + 2 * self.scale * (self.lora_B * crossed.T).sum(1)
            lengths = (lengths + self.scale**2 * (self.lora_B * inner).sum(1)).clamp(min=0).sqrt()
        return self.lora_magnitude_vector / lengths
