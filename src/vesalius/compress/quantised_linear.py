"""Linear and embedding layers over block-quantised weights, put into a built model in place of its float layers.

The weights stay packed (kernels/packing.py) and frozen; gradients flow through to what comes before, so adapters can be
trained around them. A state_dict holds the blocks as GGUF stores them, under `blocks`, whatever the packing of this
machine is. There is no `weight`: a float matrix is exactly what these layers exist to avoid. Who wants to know where a
model lives asks a parameter that every model has, or a layer's `device` and `dtype`; who wants the values asks
`dequantise()`. Left out: quantising with data (see later stages) and other devices than the CPU.
"""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from vesalius.core.errors import UserError, nearest
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.packing import PackedMatrix, pack
from vesalius.kernels.quantised_matmul import quantised_matmul, quantised_top_k


class QuantisedModule(nn.Module):
    """What both layers share: one packed matrix (rows, columns), which two modules may share too (tied weights)."""

    device = torch.device("cpu")
    dtype = torch.float32  # of the values that the blocks stand for

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    @property
    def format(self) -> str:
        """Name of the block format, for example "q4_1"."""
        return self.matrix.format

    def dequantise(self) -> Tensor:
        """The weights as float32 (rows, columns), freshly made."""
        return self.matrix.dequantise()

    def blocks(self) -> BlockTensor:
        """The blocks that were packed, bit for bit, for export."""
        return self.matrix.blocks()

    def extra_repr(self) -> str:
        return f"{self.matrix.columns}, {self.matrix.rows}, format={self.format}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "blocks"] = self.blocks().blocks

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = prefix + "blocks"
        rest = {key: value for key, value in state_dict.items() if key != name}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        if name not in state_dict:
            missing_keys.append(name)
            return
        try:
            shape = (self.matrix.rows, self.matrix.columns)
            self.matrix = pack(BlockTensor(self.format, shape, state_dict[name]))
        except ValueError as error:
            error_msgs.append(f"{name}: {error}")


class QuantisedLinear(QuantisedModule):
    """x (…, in_features) -> (…, out_features) in x's dtype; products as kernels/quantised_matmul makes them."""

    def __init__(self, matrix: PackedMatrix, bias: Tensor | None = None) -> None:
        super().__init__(matrix)
        self.in_features, self.out_features = matrix.columns, matrix.rows
        if bias is not None and bias.shape != (matrix.rows,):
            raise ValueError(f"bias must have shape ({matrix.rows},), got {tuple(bias.shape)}")
        self.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)

    @classmethod
    def from_blocks(cls, blocks: BlockTensor, bias: Tensor | None = None) -> Self:
        """Packs `blocks` (out_features, in_features) of a quantised format. ValueError as `pack`."""
        return cls(pack(blocks), bias)

    def forward(self, x: Tensor) -> Tensor:
        y = quantised_matmul(x, self.matrix)
        return (y if self.bias is None else y + self.bias).to(x.dtype)

    def top_k(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Values float32 and ids (…, k) of the largest outputs, without writing all of them where there is no bias."""
        if self.bias is None:
            return quantised_top_k(x, self.matrix, k)
        best = self(x).float().topk(k)
        return best.values, best.indices


class QuantisedEmbedding(QuantisedModule):
    """ids (…) -> (…, embedding_dim) float32: only the rows that are asked for become floats."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__(matrix)
        self.num_embeddings, self.embedding_dim = matrix.rows, matrix.columns

    @classmethod
    def from_blocks(cls, blocks: BlockTensor) -> Self:
        """Packs `blocks` (num_embeddings, embedding_dim) of a quantised format. ValueError as `pack`."""
        return cls(pack(blocks))

    def forward(self, ids: Tensor) -> Tensor:
        return self.matrix.gather(ids)


def install_blocks(
    model: nn.Module, weights: Mapping[str, BlockTensor], release: Callable[[Tensor], None] = lambda _: None
) -> None:
    """Replaces the linear and embedding layers whose weights are named as in the model's state_dict by quantised ones.

    A BlockTensor that stands under two names (a tied output head) is packed once and shared; `release` is called with
    blocks that have been packed. UserError where a name is
    not the weight of a linear or embedding layer, or the shape is another; the model is untouched then.
    """
    layers = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    found = {name: _layer(layers, name, blocks) for name, blocks in weights.items()}
    packed: dict[int, PackedMatrix] = {}
    for name, layer in found.items():
        blocks = weights[name]
        if id(blocks) not in packed:
            packed[id(blocks)] = pack(blocks)
            release(blocks.blocks)
        matrix = packed[id(blocks)]
        new = QuantisedLinear(matrix, layer.bias) if isinstance(layer, nn.Linear) else QuantisedEmbedding(matrix)
        model.set_submodule(name.removesuffix(".weight"), new.train(layer.training))


def _layer(layers: Mapping[str, nn.Linear | nn.Embedding], name: str, blocks: BlockTensor) -> nn.Linear | nn.Embedding:
    """The layer whose weight has this name and shape."""
    if name not in layers:
        raise UserError(f"{name!r} is not the weight of a linear or embedding layer, {nearest(name, layers)}")
    layer = layers[name]
    if tuple(layer.weight.shape) != blocks.shape:
        raise UserError(f"{name} has shape {tuple(layer.weight.shape)} in the model, the blocks have {blocks.shape}")
    return layer
