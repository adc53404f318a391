"""Modules: parameters with names, and what is computed with them.

A module finds its parameters among its attributes, so a model is declared by assigning them. Names are those that torch
gives the same attributes ("blocks.0.norm1.weight"), and weights have torch's shapes: the two load each other's.

Left out: buffers, modes (nothing here behaves differently in training) and hooks.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vesalius.foundations.autograd import indexing, normalising, products
from vesalius.foundations.autograd.tensor import Tensor


class Module:
    """Something with parameters; subclasses assign them, and say in `__call__` what they do."""

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Every parameter of this module and of those inside it, in the order of assignment."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.requires_grad:
                yield prefix + name, value
            elif isinstance(value, Module):
                yield from value.named_parameters(f"{prefix}{name}.")
            elif isinstance(value, list):
                for number, module in enumerate(value):
                    yield from module.named_parameters(f"{prefix}{name}.{number}.")

    def parameters(self) -> list[Tensor]:
        return [parameter for _, parameter in self.named_parameters()]

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of all parameters by name."""
        return {name: parameter.data.copy() for name, parameter in self.named_parameters()}

    def load(self, state: Mapping[str, ArrayLike]) -> None:
        """Takes over parameters by name. ValueError where names or shapes differ from this module's."""
        own = dict(self.named_parameters())
        if own.keys() != state.keys():
            raise ValueError(f"parameters differ: {sorted(own.keys() ^ state.keys())} are on one side alone")
        arrays = {name: np.asarray(state[name]) for name in own}
        for name, array in arrays.items():
            if own[name].shape != array.shape:
                raise ValueError(f"{name} has shape {own[name].shape}, got {array.shape}")
        for name, array in arrays.items():
            own[name].data[...] = array
            own[name].version.bump("load")


def parameter(values: NDArray[Any]) -> Tensor:
    """A leaf in float32."""
    return Tensor(values.astype(np.float32), requires_grad=True)


class Linear(Module):
    """x (…, D) -> (…, F): x weightᵀ + bias."""

    def __init__(self, in_features: int, out_features: int, generator: np.random.Generator, std: float = 0.02) -> None:
        self.weight = parameter(generator.normal(0, std, (out_features, in_features)))
        self.bias = parameter(np.zeros(out_features))

    def __call__(self, x: Tensor) -> Tensor:
        return products.LINEAR(x, self.weight, self.bias)


class Embedding(Module):
    """ids (…) -> (…, D): row `id` of the weights."""

    def __init__(self, vocab_size: int, width: int, generator: np.random.Generator, std: float = 0.02) -> None:
        self.weight = parameter(generator.normal(0, std, (vocab_size, width)))

    def __call__(self, ids: NDArray[np.integer]) -> Tensor:
        return indexing.embedding(self.weight, ids)


class LayerNorm(Module):
    """x (…, D) -> (…, D), each row standardised, then scaled and shifted by learned amounts."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        self.weight = parameter(np.ones(width))
        self.bias = parameter(np.zeros(width))
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return normalising.layer_norm(x, self.weight, self.bias, self.eps)
