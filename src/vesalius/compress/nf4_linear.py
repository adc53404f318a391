"""Linear layers over NF4 weights, put into a built model in place of its linear layers: the frozen base of QLoRA.
Dettmers et al. 2023, arXiv:2305.14314, section 3, equation 5.

A layer keeps four bits a weight and its scales; products make floats of some rows at a time, forward and backward
(kernels/frozen_product.py), in the type that the layer's input has: bfloat16 under autocast, else float32. Adapters
beside it are trained, it is not. Embedding and head stay floats, as in the paper. Left out: paged optimizer states, for
adapters have few.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from vesalius.compress.dynamic_codes import DynamicCodes
from vesalius.compress.nf4 import NF4Matrix
from vesalius.compress.packed_module import PackedModule
from vesalius.compress.quantised_linear import QuantisedLinear
from vesalius.kernels.frozen_product import frozen_product


class NF4Linear(PackedModule):
    """x (…, in_features) -> (…, out_features) in x's dtype, or in autocast's."""

    codes: Tensor
    scale_codes: Tensor
    scale_steps: Tensor
    scale_mean: Tensor

    def __init__(self, matrix: NF4Matrix, bias: Tensor | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = matrix.columns, matrix.rows
        if bias is not None and bias.shape != (matrix.rows,):
            raise ValueError(f"bias must have shape ({matrix.rows},), got {tuple(bias.shape)}")
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.register_buffer("codes", matrix.codes)
        self.register_buffer("scale_codes", matrix.scales.codes)
        self.register_buffer("scale_steps", matrix.scales.steps)
        self.register_buffer("scale_mean", matrix.scales.mean)

    @classmethod
    def from_floats(cls, weight: Tensor, bias: Tensor | None = None) -> "NF4Linear":
        """weight (out_features, in_features). ValueError for what is not finite."""
        return cls(NF4Matrix.quantise(weight), bias)

    @property
    def matrix(self) -> NF4Matrix:
        """The packed weights, which are this layer's buffers."""
        scales = DynamicCodes(self.scale_codes, self.scale_steps, self.scale_mean)
        return NF4Matrix(self.out_features, self.in_features, self.codes, scales)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features

    def dequantise(self) -> Tensor:
        return self.matrix.dequantise()

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y = frozen_product(x, self.matrix)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, format=nf4"


def install_nf4(model: nn.Module, wanted: Callable[[str], bool] = lambda name: name != "lm_head") -> int:
    """Puts NF4 layers in place of the linear layers, float or quantised, whose names are wanted -> how many.

    One after the other, so that only one of them is there twice. All but the head are wanted by default.
    """
    kinds = (nn.Linear, QuantisedLinear)
    names = [name for name, part in model.named_modules() if isinstance(part, kinds) and wanted(name)]
    for name in names:
        layer = model.get_submodule(name)
        model.set_submodule(name, _packed(cast(nn.Linear | QuantisedLinear, layer)).train(layer.training))
    return len(names)


def _packed(layer: nn.Linear | QuantisedLinear) -> NF4Linear:
    weight = layer.weight if isinstance(layer, nn.Linear) else layer.dequantise()
    return NF4Linear.from_floats(weight, layer.bias)
