"""A shallower model out of a deep one: some of its layers in their order, everything else as it is.

A student that begins so has most of what its teacher knows, where one with fresh weights has to be told everything:
Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, section 2. The layers are spread evenly, with the first and the last,
which read and write the vocabulary's space; the ones between do much of the same (Gromov et al. 2024,
arXiv:2403.17887).
"""

import re
from dataclasses import replace

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def with_layers(model: Transformer, count: int) -> Transformer:
    """A new model with `count` of the layers and copies of the weights, on the same device. UserError where there are
    not so many."""
    layers = model.config.num_hidden_layers
    if not 1 <= count <= layers:
        raise UserError(f"cannot keep {count} of {layers} layers: give a number from 1 to {layers}")
    kept = spread_layers(layers, count)
    shallow = Transformer(_config(model.config, kept)).to(next(model.parameters()).device)
    places = {str(layer): str(place) for place, layer in enumerate(kept)}
    weights = {
        _LAYER.sub(lambda found: f"model.layers.{places[found[1]]}.", name): tensor
        for name, tensor in model.state_dict().items()
        if (found := _LAYER.match(name)) is None or found[1] in places
    }
    shallow.load_state_dict(weights)
    return shallow.train(model.training)


def spread_layers(layers: int, count: int) -> list[int]:
    """Which of so many layers are kept: evenly spread, from the first to the last; of one, the first.

    >>> spread_layers(6, 4)
    [0, 2, 3, 5]
    """
    return [round(place * (layers - 1) / max(1, count - 1)) for place in range(count)]


def _config(config: ModelConfig, kept: list[int]) -> ModelConfig:
    """The config of the kept layers: what it says of single layers goes with them."""

    def among(layers: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(place for place, layer in enumerate(kept) if layer in layers)

    mixture = config.mixture
    return replace(
        config,
        num_hidden_layers=len(kept),
        layer_types=tuple(config.layer_types[layer] for layer in kept) if config.layer_types else (),
        layers_without_rope=among(config.layers_without_rope),
        mixture=None if mixture is None else replace(mixture, dense_layers=among(mixture.dense_layers)),
    )
