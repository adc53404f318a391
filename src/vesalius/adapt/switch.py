"""The adapters of a model by name: which there are, which are in use, the model without them, and how one goes.

All adapted layers of a model hold one `Switchboard`. `switch` takes one adapter or several, which are summed; `by_row`
gives each row of tokens its own; `disabled` puts the layers as they were back into their places, so the model is bit
for bit its base, with every faster way through it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from torch import nn

from vesalius.adapt.adapted_linear import AdaptedLinear, LinearAdapter
from vesalius.adapt.holder import Holder, Switchboard
from vesalius.adapt.targets import LinearLayer, pick
from vesalius.core.errors import UserError, nearest


def holders(model: nn.Module) -> dict[str, Holder]:
    """What stands in the place of parts of the model and holds adapters, by the names of these parts."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Holder)}


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The linear layers that hold adapters."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def is_adapted(model: nn.Module) -> bool:
    """Whether any part of the model holds an adapter."""
    return any(isinstance(module, Holder) for module in model.modules())


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """The names of all adapters, in the order in which they came."""
    return tuple(dict.fromkeys(name for holder in holders(model).values() for name in holder.adapters))


def switchboard(model: nn.Module) -> Switchboard:
    """What all holders of adapters share; of a model without any a new one, with nothing in use."""
    return next((holder.board for holder in holders(model).values()), Switchboard())


def add(model: nn.Module, name: str, targets: Sequence[str], make: Callable[[str, LinearLayer], LinearAdapter]) -> None:
    """Puts an adapter of this name around the linear layers that `targets` picks, freezes the rest of the model, and
    takes it into use alone. `make` makes its part for a layer, by the layer's name.

    UserError where the name is taken or none, or a pattern matches nothing; the model is untouched then.
    """
    check_name(model, name)
    layers, board = pick(model, targets), switchboard(model)
    made = {path: make(path, layer) for path, layer in layers.items()}
    model.requires_grad_(False)
    for path, adapter in made.items():
        there = model.get_submodule(path)
        if not isinstance(there, AdaptedLinear):
            there = AdaptedLinear(layers[path], board).train(there.training)
            model.set_submodule(path, there)
        there.adapters[name] = adapter.train(there.training)
    switch(model, name)


def switch(model: nn.Module, *names: str) -> None:
    """Takes these adapters into use, summed, and no others; without a name none. Those in use are what trains.

    UserError where there is no adapter of a name, or the adapters are merged.
    """
    known = adapter_names(model)
    for name in names:
        if name not in known:
            raise UserError(f"the model has no adapter {name!r}, {nearest(name, known)}")
    _refuse_merged(model)
    switchboard(model).active = tuple(dict.fromkeys(names))
    for holder in holders(model).values():
        for name, adapter in holder.adapters.items():
            adapter.requires_grad_(name in names)


def remove(model: nn.Module, name: str) -> None:
    """Takes an adapter away; a layer without any is again the one that it was. UserError where there is none of it."""
    if name not in adapter_names(model):
        raise UserError(f"the model has no adapter {name!r}, {nearest(name, adapter_names(model))}")
    switch(model, *(other for other in switchboard(model).active if other != name))
    for holder in holders(model).values():
        if name in holder.adapters:
            del holder.adapters[name]
    for path, holder in holders(model).items():
        if not holder.adapters:
            model.set_submodule(path, holder.untouched)


def disabled(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within, the model is its base: the layers that stand there are those that stood there before any adapter."""
    return without(places(model))


Place = tuple[nn.Module, str, Holder]
"""The parent of a holder, its name there, and itself."""


def places(model: nn.Module) -> list[Place]:
    """Where the model's holders are, for who leaves them out often: to find them takes longer than to move them."""
    found = [(path.rpartition("."), part) for path, part in holders(model).items()]
    return [(model.get_submodule(parent), name, part) for (parent, _, name), part in found]


@contextlib.contextmanager
def without(places: Sequence[Place]) -> Iterator[None]:
    """Within, what stood in these places before any adapter stands there again."""
    for parent, name, part in places:
        parent._modules[name] = part.untouched
    try:
        yield
    finally:
        for parent, name, part in places:
            parent._modules[name] = cast(nn.Module, part)


@contextlib.contextmanager
def by_row(model: nn.Module, names: Sequence[str | None]) -> Iterator[None]:
    """Within, token row i of B · T uses the adapter names[i] alone, None for the base.

    For the body of the model: an adapted output head reads other rows where only some are asked for. UserError where
    there is no adapter of a name, or the adapters are merged.
    """
    known, board = adapter_names(model), switchboard(model)
    for name in {*names} - {None}:
        if name not in known:
            raise UserError(f"the model has no adapter {name!r}, {nearest(str(name), known)}")
    _refuse_merged(model)
    board.route(names, next(model.parameters()).device)
    try:
        yield
    finally:
        board.unroute()


def is_merged(model: nn.Module) -> bool:
    """Whether adapters are written into the weights."""
    return any(layer.is_merged for layer in adapted_layers(model).values())


def _refuse_merged(model: nn.Module) -> None:
    if is_merged(model):
        raise UserError("the adapters are merged into the weights: unmerge the model before it changes adapters")


def check_name(model: nn.Module, name: str) -> None:
    """UserError where a new adapter cannot have this name."""
    if name in adapter_names(model):
        raise UserError(f"the model has an adapter {name!r} already: remove it, or take another name")
    if not name or "." in name or name in dir(nn.ModuleDict):
        raise UserError(f"an adapter cannot be called {name!r}: take a name without dots, such as 'default'")
    _refuse_merged(model)
