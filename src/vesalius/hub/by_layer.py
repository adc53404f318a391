"""The tensors of a file in the order in which a model takes them: layer by layer, so that a model which is larger than
memory never has to be there as a whole. What stands outside of the layers comes first, because it stays.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from vesalius.models.transformer import Transformer

T = TypeVar("T")

_NUMBER = re.compile(r"(?:^|\.)(\d{1,6})\.")


def by_layer(stored: Mapping[str, T], layers: int) -> list[dict[str, T]]:
    """What no layer has, and then what each has: the first number in a name, in every format, is that of its layer.

    >>> by_layer({"blk.1.up.weight": "b", "output.weight": "c", "blk.0.up.weight": "a"}, 2)
    [{'output.weight': 'c'}, {'blk.0.up.weight': 'a'}, {'blk.1.up.weight': 'b'}]
    """
    groups: list[dict[str, T]] = [{} for _ in range(1 + layers)]
    for name, tensor in stored.items():
        match = _NUMBER.search(name)
        number = int(match[1]) if match else layers
        groups[1 + number if number < layers else 0][name] = tensor
    return groups


def part_of(model: Transformer, number: int) -> tuple[str, nn.Module]:
    """What the names of one layer's tensors begin with, and the layer; for -1 nothing, and the model."""
    return ("", model) if number < 0 else (f"model.layers.{number}.", model.model.layers[number])
