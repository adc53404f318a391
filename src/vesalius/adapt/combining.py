"""One adapter of several: their changes of the weights τ_i, weighed by w_i, in each layer.

linear     Σ w_i τ_i, exactly: the factors are joined, so the rank is the sum of their ranks. Ilharco et
           al. 2022, arXiv:2212.04089, "task arithmetic"
ties       only the `density` largest entries of each τ_i count, and where signs disagree only those of the stronger
           sign, whose mean is taken. Yadav et al. 2023, arXiv:2306.01708, section 4
dare       each entry is dropped with probability 1 - density and what stays is divided by density; then linear. Yu et
           al. 2023, arXiv:2311.03099, section 3.1
dare_ties  the same dropping in place of the trimming, then as ties

What is no product of two thin matrices is cut to `rank` by its singular values. The weights multiply after the signs
are elected, as in PEFT.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from vesalius.adapt.adapted_linear import AdaptedLinear
from vesalius.adapt.low_rank import LowRank
from vesalius.adapt.switch import adapted_layers, adapter_names, add
from vesalius.adapt.targets import LinearLayer
from vesalius.core.errors import UserError, nearest

Combine = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]
"""τ (N, O, I), w (N,), density, generator -> (O, I)."""


def weighted_sum(changes: Tensor, weights: Tensor) -> Tensor:
    """Σ w_i τ_i."""
    return torch.tensordot(weights, changes, 1)


def trim(change: Tensor, density: float) -> Tensor:
    """The `density` largest entries by size, and 0 elsewhere.

    >>> trim(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 0.5)
    tensor([[ 0., -3.],
            [ 2.,  0.]])
    """
    kept = change.abs().flatten().topk(int(density * change.numel())).indices
    return torch.zeros_like(change).flatten().index_put((kept,), change.flatten()[kept]).view_as(change)


def drop(change: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Each entry / density with probability `density`, else 0: the same on average."""
    kept = torch.rand(change.shape, generator=generator).to(change.device) < density
    return change * kept / density


def elect(changes: Tensor, weights: Tensor) -> Tensor:
    """The mean of w_i τ_i over those entries whose sign is that of the sum of all τ_i there."""
    majority = torch.where(changes.sum(0) >= 0, 1, -1)
    agree = changes.sign() == majority  # (N, O, I)
    weighed = changes * weights.view(-1, 1, 1) * agree
    return weighed.sum(0) / agree.sum(0).clamp(min=1)


def _ties(changes: Tensor, weights: Tensor, density: float, _: torch.Generator) -> Tensor:
    return elect(torch.stack([trim(change, density) for change in changes]), weights)


def _dare(changes: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return weighted_sum(torch.stack([drop(change, density, generator) for change in changes]), weights)


def _dare_ties(changes: Tensor, weights: Tensor, density: float, generator: torch.Generator) -> Tensor:
    return elect(torch.stack([drop(change, density, generator) for change in changes]), weights)


COMBINATIONS: dict[str, Combine] = {"ties": _ties, "dare": _dare, "dare_ties": _dare_ties}
LINEAR = "linear"


def combine(
    model: nn.Module,
    weights: Mapping[str, float],
    name: str,
    how: str = LINEAR,
    *,
    rank: int | None = None,
    density: float = 0.5,
    seed: int = 0,
) -> None:
    """Adds the adapter `name`, made of those in `weights`, and takes it into use alone.

    rank  of what is cut by singular values; None: the largest rank of the adapters, and no cut for linear
    UserError for an unknown way or adapter, adapters that are no plain LoRA, and a density outside of 0 to 1.
    """
    _check(model, weights, how, density)
    layers, generator = adapted_layers(model), torch.Generator().manual_seed(seed)

    def make(path: str, base: LinearLayer) -> LowRank:
        parts = _parts(layers[path], weights)
        if how == LINEAR and rank is None:
            return _joined(parts, base)
        changes = torch.stack([part.weight_change(base)[0] for part, _ in parts])
        by = torch.tensor([weight for _, weight in parts], device=changes.device, dtype=changes.dtype)
        whole = weighted_sum(changes, by) if how == LINEAR else COMBINATIONS[how](changes, by, density, generator)
        return _cut(whole, rank or max(len(part.lora_A) for part, _ in parts), base)

    targets = [path for path, layer in layers.items() if _parts(layer, weights)]
    with torch.no_grad():
        add(model, name, targets, make)


def _check(model: nn.Module, weights: Mapping[str, float], how: str, density: float) -> None:
    known = adapter_names(model)
    for name in weights:
        if name not in known:
            raise UserError(f"the model has no adapter {name!r}, {nearest(name, known)}")
    if how != LINEAR and how not in COMBINATIONS:
        raise UserError(f"no way {how!r} to combine adapters, {nearest(how, [LINEAR, *COMBINATIONS])}")
    if not 0 < density <= 1:
        raise UserError(f"density = {density}, expected above 0 to 1")
    for layer in adapted_layers(model).values():
        for name in weights:
            if name in layer.adapters and type(layer.adapters[name]) is not LowRank:
                raise UserError(f"adapter {name!r} is no plain LoRA, and only those can be combined")


def _parts(layer: AdaptedLinear, weights: Mapping[str, float]) -> list[tuple[LowRank, float]]:
    """The adapters of this layer that take part, with their weights."""
    return [(cast(LowRank, layer.adapters[name]), w) for name, w in weights.items() if name in layer.adapters]


def _joined(parts: Sequence[tuple[LowRank, float]], base: LinearLayer) -> LowRank:
    """Σ w s B A as one product: the A's one below the other, the B's side by side."""
    first = torch.cat([part.lora_A for part, _ in parts])
    second = torch.cat([weight * part.scale * part.lora_B for part, weight in parts], dim=1)
    return LowRank.of(base, first, second)


def _cut(change: Tensor, rank: int, base: LinearLayer) -> LowRank:
    """The nearest product of this rank, the singular values shared evenly by both factors."""
    u, s, v = torch.linalg.svd(change.float(), full_matrices=False)
    root = s[:rank].sqrt()
    return LowRank.of(base, root.unsqueeze(1) * v[:rank], u[:, :rank] * root)
