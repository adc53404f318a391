"""The adapters of a model by name: which there are, which are in use, the model without them, and how one goes.

All adapted layers of a model hold one `Switchboard`. `switch` takes one adapter or several, which are summed; `by_row`
gives each row of tokens its own; `disabled` puts the layers as they were back into their places, so the model is bit
for bit its base, with every faster way through it.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from vesalius.adapt.adapted_linear import AdaptedLinear, LinearAdapter, Switchboard
from vesalius.adapt.targets import LinearLayer, pick
from vesalius.core.errors import UserError, nearest


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """The layers that hold adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def is_adapted(model: nn.Module) -> bool:
    """Whether any layer holds an adapter."""
    return any(isinstance(module, AdaptedLinear) for module in model.modules())


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """The names of all adapters, in the order in which they came."""
    return tuple(dict.fromkeys(name for layer in adapted_layers(model).values() for name in layer.adapters))


def switchboard(model: nn.Module) -> Switchboard:
    """What the adapted layers share; of a model without any a new one, with nothing in use."""
    return next((layer.board for layer in adapted_layers(model).values()), Switchboard())


def add(model: nn.Module, name: str, targets: Sequence[str], make: Callable[[str, LinearLayer], LinearAdapter]) -> None:
    """Puts an adapter of this name around the linear layers that `targets` picks, freezes the rest of the model, and
    takes it into use alone. `make` makes its part for a layer, by the layer's name.

    UserError where the name is taken or none, or a pattern matches nothing; the model is untouched then.
    """
    _check_name(model, name)
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
    for layer in adapted_layers(model).values():
        for name, adapter in layer.adapters.items():
            adapter.requires_grad_(name in names)


def remove(model: nn.Module, name: str) -> None:
    """Takes an adapter away; a layer without any is again the one that it was. UserError where there is none of it."""
    in_use = switchboard(model).active
    switch(model, *{*in_use, name} - {name}) if name in adapter_names(model) else switch(model, name)
    for path, layer in adapted_layers(model).items():
        if name in layer.adapters:
            del layer.adapters[name]
        if not layer.adapters:
            model.set_submodule(path, layer.base)


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within, the model is its base: the layers that stand there are those that stood there before any adapter."""
    places = [(path, layer) for path, layer in adapted_layers(model).items()]
    parents = [(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], layer) for path, layer in places]
    for parent, name, layer in parents:
        parent._modules[name] = layer.untouched  # type: ignore[assignment]
    try:
        yield
    finally:
        for parent, name, layer in parents:
            parent._modules[name] = layer


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


def _refuse_merged(model: nn.Module) -> None:
    if any(layer.is_merged for layer in adapted_layers(model).values()):
        raise UserError("the adapters are merged into the weights: unmerge the model before it changes adapters")


def _check_name(model: nn.Module, name: str) -> None:
    if name in adapter_names(model):
        raise UserError(f"the model has an adapter {name!r} already: remove it, or take another name")
    if not name or "." in name or name in dir(nn.ModuleDict):
        raise UserError(f"an adapter cannot be called {name!r}: take a name without dots, such as 'default'")
    _refuse_merged(model)
