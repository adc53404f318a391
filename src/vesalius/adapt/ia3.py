"""(IA)³: keys, values and the inner activations of the MLP are each scaled by a learned vector, and nothing else.
Liu et al. 2022, arXiv:2205.05638, section 3.3.

    y = l ⊙ (W x + b)      keys and values: l (O,)
    y = W (l ⊙ x) + b      what reads the MLP's inner activations: l (I,)

l starts at 1. What is added here is the difference, so that it is one of the adapters that may be summed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vesalius.adapt.adapted_linear import LinearAdapter
from vesalius.adapt.switch import add
from vesalius.adapt.targets import LinearLayer, matches, pick, placement_of, weight_of


@dataclass(frozen=True, kw_only=True)
class IA3Config:
    """Layers whose outputs are scaled, and among them those whose inputs are scaled instead."""

    target_modules: tuple[str, ...] = ("k_proj", "v_proj", "down_proj")
    feedforward_modules: tuple[str, ...] = ("down_proj",)


class IA3(LinearAdapter):
    """The scales of one layer."""

    def __init__(self, base: LinearLayer, *, scales_input: bool) -> None:
        super().__init__()
        device, dtype = placement_of(base)
        size = base.in_features if scales_input else base.out_features
        self.ia3_l = nn.Parameter(torch.ones(size, device=device, dtype=dtype))
        self.scales_input = scales_input

    def forward(self, x: Tensor, y: Tensor, base: LinearLayer) -> Tensor:
        if not self.scales_input:
            return (y * (self.ia3_l - 1)).to(y.dtype)
        change = base((x * (self.ia3_l - 1)).to(x.dtype))
        return change if base.bias is None else change - base.bias

    def weight_change(self, base: LinearLayer) -> tuple[Tensor, Tensor | None]:
        more = self.ia3_l - 1
        if self.scales_input:
            return weight_of(base) * more, None
        return weight_of(base) * more.unsqueeze(1), None if base.bias is None else base.bias * more

    def extra_repr(self) -> str:
        return f"{len(self.ia3_l)}, of the {'input' if self.scales_input else 'output'}"


def add_ia3(model: nn.Module, config: IA3Config, name: str = "default") -> None:
    """Puts (IA)³ around the layers that the config picks, in place, and freezes the rest.

    UserError where a pattern matches nothing, or the name is taken.
    """
    pick(model, config.feedforward_modules or config.target_modules)

    def make(path: str, layer: LinearLayer) -> IA3:
        return IA3(layer, scales_input=any(matches(path, pattern) for pattern in config.feedforward_modules))

    add(model, name, config.target_modules, make)
