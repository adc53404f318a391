"""Bottleneck adapters: small networks with a residual around them, behind parts of a layer.

    y ← y + U f(D y + d) + u,   D (m, O), U (O, m)

houlsby   behind attention and behind the MLP: Houlsby et al. 2019, arXiv:1902.00751, section 2.1
pfeiffer  behind the MLP only: Pfeiffer et al. 2020, arXiv:2005.00247, section 3.2

They stand around the last projection of each part, before the residual is added. U and u start at 0, so training
starts at the model itself; Houlsby starts near it. They are no linear map, so they cannot be merged, and other programs
do not know how they are saved here. Left out: norms of their own.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vesalius.adapt.adapted_linear import LinearAdapter
from vesalius.adapt.switch import add
from vesalius.adapt.targets import LinearLayer, placement_of
from vesalius.core.errors import UserError, nearest
from vesalius.kernels.linear import Linear
from vesalius.models.layers import ACTIVATIONS

PLACES = {"houlsby": ("o_proj", "down_proj"), "pfeiffer": ("down_proj",)}


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig:
    """Width m, where, and the function f between; `target_modules` names other layers than the placement's.

    UserError where a setting is out of its range.
    """

    bottleneck_size: int = 64
    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    hidden_act: str = "relu"
    target_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bottleneck_size < 1:
            raise UserError(f"bottleneck_size = {self.bottleneck_size}, expected a width from 1")
        for name, known in ((self.placement, PLACES), (self.hidden_act, ACTIVATIONS)):
            if name not in known:
                raise UserError(f"{name!r} is no setting of a bottleneck adapter, {nearest(name, known)}")

    @property
    def targets(self) -> tuple[str, ...]:
        return self.target_modules or PLACES[self.placement]


class Bottleneck(LinearAdapter):
    """The small network behind one layer."""

    is_linear = False

    def __init__(self, base: LinearLayer, *, size: int, hidden_act: str, generator: torch.Generator) -> None:
        super().__init__()
        device, dtype = placement_of(base)
        with torch.random.fork_rng(devices=[]):  # torch's layers draw weights that are replaced
            self.down, self.up = Linear(base.out_features, size), Linear(size, base.out_features)
        nn.init.kaiming_normal_(self.down.weight, nonlinearity="relu", generator=generator)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)
        self.to(device=device, dtype=dtype)
        self.act = ACTIVATIONS[hidden_act]

    def forward(self, x: Tensor, y: Tensor, base: LinearLayer) -> Tensor:
        return self.up(self.act(self.down(y.to(self.down.weight.dtype)))).to(y.dtype)

    def weight_change(self, base: LinearLayer) -> tuple[Tensor, Tensor | None]:
        raise UserError("a bottleneck adapter is no linear map and cannot be merged: keep it beside the model")


def add_bottleneck(model: nn.Module, config: BottleneckConfig, name: str = "default", *, seed: int = 0) -> None:
    """Puts bottleneck adapters behind the layers that the config names, in place, and freezes the rest.

    UserError where a pattern matches nothing, or the name is taken.
    """
    generator = torch.Generator().manual_seed(seed)

    def make(_: str, layer: LinearLayer) -> Bottleneck:
        return Bottleneck(layer, size=config.bottleneck_size, hidden_act=config.hidden_act, generator=generator)

    add(model, name, config.targets, make)
