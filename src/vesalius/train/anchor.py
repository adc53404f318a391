"""L2 to the start: a model that learns something new is held near the weights that it began with, and forgets less.

    L' = L + λ/2 · Σ (θ - θ₀)²    over all weights that train

L2-SP of Li et al. 2018, arXiv:1802.01483, eq. 2. It is elastic weight consolidation (Kirkpatrick et al. 2017,
arXiv:1612.00796, eq. 3) with the same importance for every weight, so nothing has to be known of what was learned
before. Of an adapter it is the adapter's own weights that are held where they began, where it changes nothing. The
price is a copy of what trains.

The pull is a part of the gradient, so an optimizer that divides by its size, such as Adam, weighs it against the
gradients of the loss and not in itself. Left out: pulling apart from the gradient, as decoupled weight decay does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from vesalius.train.objectives import Objective


@dataclass(frozen=True, eq=False)
class Anchored:
    """An objective with the penalty; `weight` is λ. Metric: anchor, the squared distance."""

    objective: Objective
    weight: float
    start: Mapping[str, Tensor]

    @classmethod
    def at(cls, model: nn.Module, objective: Objective, weight: float) -> Self:
        """Held where the model is now."""
        return cls(objective, weight, {name: p.detach().clone() for name, p in _trained(model).items()})

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = self.objective(model, batch)
        distance = squared_distance(model, self.start)
        return loss + self.weight / 2 * distance, {**metrics, "anchor": distance.detach()}


@torch.compiler.disable  # a graph of every weight would be compiled for one sum
def squared_distance(model: nn.Module, start: Mapping[str, Tensor]) -> Tensor:
    """Σ (θ - θ₀)² over the weights that train, a scalar in float32."""
    parts = [(p.float() - start[name].float()).square().sum() for name, p in _trained(model).items()]
    return torch.stack(parts).sum()


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
