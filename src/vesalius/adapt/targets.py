"""Which linear layers of a built model an adapter goes to, picked by patterns.

A pattern is the end of a layer's dotted name, in which * stands for anything:

    q_proj             that projection of every layer
    layers.*.mlp.*     every projection of every MLP
    model.layers.0.*   all of the first layer
    all-linear         all but the output head, as in QLoRA (arXiv:2305.14314, section 4) and PEFT

A linear layer is torch's, or one that keeps its weights frozen in a form of its own (`FrozenLinear`).
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vesalius.core.errors import UserError, nearest
from vesalius.kernels.linear import Wrapped

ALL_LINEAR = "all-linear"

HEAD = "lm_head"


@runtime_checkable
class FrozenLinear(Protocol):
    """A layer (…, in_features) -> (…, out_features) whose weights are no float parameter, quantised ones for example.

    `device` and `dtype` are where its products are and what its weights stand for.
    """

    in_features: int
    out_features: int
    bias: Tensor | None
    device: torch.device
    dtype: torch.dtype

    def __call__(self, x: Tensor) -> Tensor: ...

    def dequantise(self) -> Tensor:
        """The weights (out_features, in_features) as floats."""
        ...


LinearLayer = nn.Linear | FrozenLinear


def linear_layers(model: nn.Module) -> dict[str, LinearLayer]:
    """Every linear layer by its name; one that is adapted already by the name that it has without adapters."""
    found: dict[str, LinearLayer] = {}
    adapted: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, Wrapped):
            adapted.add(name)
            if isinstance(module.base, LinearLayer):
                found[name] = module.base
        elif isinstance(module, LinearLayer) and not any(name.startswith(f"{outer}.") for outer in adapted):
            found[name] = module
    return found


def pick(model: nn.Module, patterns: Iterable[str]) -> dict[str, LinearLayer]:
    """The linear layers that any of the patterns matches, in the model's order. UserError where one matches none."""
    layers, patterns = linear_layers(model), tuple(patterns)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in layers):
            known = {ALL_LINEAR, *(name.rpartition(".")[2] for name in layers)}
            raise UserError(f"no linear layer of the model is called {pattern!r}, {nearest(pattern, known)}")
    if not patterns:
        raise UserError(f"no target_modules: give names of linear layers such as q_proj, or {ALL_LINEAR}")
    return {name: layer for name, layer in layers.items() if any(matches(name, pattern) for pattern in patterns)}


def matches(name: str, pattern: str) -> bool:
    """Whether the pattern is the end of the dotted name.

    >>> matches("model.layers.3.mlp.up_proj", "layers.*.mlp.*"), matches("model.layers.3.mlp.up_proj", "proj")
    (True, False)
    """
    if pattern == ALL_LINEAR:
        return name.rpartition(".")[2] != HEAD
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


def weight_of(layer: LinearLayer) -> Tensor:
    """The layer's weight (out_features, in_features), freshly made where it is not kept as one."""
    return layer.weight if isinstance(layer, nn.Linear) else layer.dequantise()


def placement_of(layer: LinearLayer) -> tuple[torch.device, torch.dtype]:
    """Where numbers that belong to the layer live, and in what: at least float32, lest small steps be lost."""
    where = layer.weight if isinstance(layer, nn.Linear) else layer
    return where.device, torch.promote_types(where.dtype, torch.float32)
