"""Adapters written into the weights, so that the model runs as fast as its base and other programs can read it.

What was there before is kept aside, so `unmerge` is exact to the last bit, at the price of the merged weights' memory.
`fold` keeps nothing: what is left is a plain model. Quantised layers become float ones where adapters were merged.
"""

from torch import nn

from vesalius.adapt.adapted_linear import AdaptedLinear
from vesalius.adapt.switch import adapted_layers, holders
from vesalius.core.errors import UserError


def is_mergeable(model: nn.Module) -> bool:
    """Whether all adapters in use are linear maps of linear layers."""
    return all(
        isinstance(holder, AdaptedLinear) and all(part.is_linear for part in holder.in_use())
        for holder in holders(model).values()
    )


def merge(model: nn.Module) -> None:
    """Writes the adapters in use into the weights, in place. UserError where they are no linear maps, or merged."""
    if not is_mergeable(model):
        raise UserError(
            "bottleneck adapters, prompts and prefixes are no linear maps of the weights and cannot be merged: "
            "keep the adapter beside the model"
        )
    layers = adapted_layers(model).values()
    if any(layer.is_merged for layer in layers):
        raise UserError("the adapters are merged already: unmerge them first")
    for layer in layers:
        if layer.in_use():
            layer.merge()


def unmerge(model: nn.Module) -> None:
    """Puts back what `merge` has put aside; nothing where nothing was merged."""
    for layer in adapted_layers(model).values():
        layer.unmerge()


def fold(model: nn.Module) -> None:
    """Merges the adapters in use and takes all adapters away: a plain model is left. UserError as in `merge`."""
    if not any(layer.is_merged for layer in adapted_layers(model).values()):
        merge(model)
    for path, layer in adapted_layers(model).items():
        model.set_submodule(path, layer.base)
