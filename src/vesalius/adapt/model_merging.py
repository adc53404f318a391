"""Whole models of one shape made into one: a weighted mean, or a way along the sphere.

linear  Σ w_i θ_i of every tensor: "model soups", Wortsman et al. 2022, arXiv:2203.05482
slerp   from θ_0 to θ_1 along the great circle, each tensor as one vector: Shoemake 1985, section 3.3. With Ω the angle
        between them:  sin((1 - t) Ω) / sin Ω · θ_0 + sin(t Ω) / sin Ω · θ_1

Models that were tuned from one start lie in one valley, where the mean of their weights is a model too; models of
different starts do not.
"""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.models.transformer import Transformer

PARALLEL = 1e-6
"""Below this sine of their angle two vectors are taken for parallel, and the way between them is straight."""


def merge_linear(models: Sequence[Transformer], weights: Sequence[float]) -> Transformer:
    """A new model whose every tensor is Σ w_i θ_i. UserError where the models have different shapes."""
    if len(models) != len(weights) or not models:
        raise UserError(f"{len(weights)} weights for {len(models)} models: give one for each, and at least one")
    return _merged(models, lambda parts: sum(w * p.double() for w, p in zip(weights, parts, strict=True)))


def merge_slerp(first: Transformer, second: Transformer, t: float) -> Transformer:
    """A new model the part t of the way from the first to the second. UserError where they have different shapes."""
    return _merged((first, second), lambda parts: slerp(parts[0].double(), parts[1].double(), t))


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """Of two tensors of one shape, each as one vector.

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 0.5)
    tensor([0.7071, 0.7071])
    """
    lengths = first.norm() * second.norm()
    cosine = float((first * second).sum() / lengths) if lengths else 1.0
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < PARALLEL:
        return torch.lerp(first, second, t)
    return (math.sin((1 - t) * angle) * first + math.sin(t * angle) * second) / math.sin(angle)


@torch.no_grad()
def _merged(models: Sequence[Transformer], mix: Callable[[Sequence[Tensor]], Tensor | float]) -> Transformer:
    states = [dict(model.named_parameters()) for model in models]
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
    for other in shapes[1:]:
        if other != shapes[0]:
            name = next(name for name in [*shapes[0], *other] if shapes[0].get(name) != other.get(name))
            raise UserError(
                f"{name} is {shapes[0].get(name, 'absent')} in one model and {other.get(name, 'absent')} in another: "
                "only models of one shape can be merged"
            )
    made = copy.deepcopy(models[0])
    for name, parameter in made.named_parameters():
        parameter.copy_(torch.as_tensor(mix([state[name] for state in states])))
    return made
