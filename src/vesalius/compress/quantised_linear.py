"""Linear and embedding layers over block-quantised weights, put into a built model in place of its float layers.

There is no `weight`: a float matrix is exactly what these layers exist to avoid. Who wants to know where a model lives
asks a parameter that every model has, or a layer's `device` and `dtype`; who wants the values asks `dequantise()`. What
they are stored and saved as: quantised_module.py. Left out: quantising with data (see later stages) and other devices
than the CPU.
"""

from collections.abc import Callable, Mapping
from typing import Self

from torch import Tensor, nn

from vesalius.compress.quantised_experts import QuantisedExperts
from vesalius.compress.quantised_module import QuantisedModule
from vesalius.core.errors import UserError, nearest
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.packing import PackedMatrix, pack
from vesalius.kernels.quantised_matmul import quantised_matmul, quantised_top_k


class QuantisedMatrix(QuantisedModule):
    """What both layers share: one packed matrix (rows, columns), which two modules may share too (tied weights)."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.rows, self.matrix.columns

    @property
    def format(self) -> str:
        return self.matrix.format

    @property
    def packed(self) -> tuple[PackedMatrix, ...]:
        return (self.matrix,)

    def hold(self, matrices: tuple[PackedMatrix, ...]) -> None:
        (self.matrix,) = matrices

    def blocks(self) -> BlockTensor:
        return self.matrix.blocks()

    def pack(self, blocks: BlockTensor) -> None:
        self.matrix = pack(blocks)

    def dequantise(self) -> Tensor:
        return self.matrix.dequantise()

    def extra_repr(self) -> str:
        return f"{self.matrix.columns}, {self.matrix.rows}, format={self.format}"


class QuantisedLinear(QuantisedMatrix):
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


class QuantisedEmbedding(QuantisedMatrix):
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
    """Puts quantised weights, named as in the model's state_dict, in place of its linear and embedding layers and of
    stacks of experts.

    A BlockTensor that stands under two names (a tied output head) is packed once and shared; `release` is called with
    blocks that have been packed. UserError where a name is the weight of nothing that can be replaced, or the shape is
    another; the model is untouched then.
    """
    layers = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    stacks = {name: weight for name, weight in model.named_parameters() if weight.dim() == 3}
    for name, blocks in weights.items():
        _check(name, blocks, {n: layer.weight for n, layer in layers.items()} | stacks)
    packed: dict[int, PackedMatrix] = {}
    for name, blocks in weights.items():
        if name in stacks:
            _replace_stack(model, name, QuantisedExperts.from_blocks(blocks, release))
            continue
        if id(blocks) not in packed:
            packed[id(blocks)] = pack(blocks, release=release)
        matrix, layer = packed[id(blocks)], layers[name]
        new = QuantisedLinear(matrix, layer.bias) if isinstance(layer, nn.Linear) else QuantisedEmbedding(matrix)
        model.set_submodule(name.removesuffix(".weight"), new.train(layer.training))


def _check(name: str, blocks: BlockTensor, known: Mapping[str, Tensor]) -> None:
    """Whether there is a weight of this name and shape."""
    if name not in known:
        raise UserError(f"{name!r} is not the weight of a linear or embedding layer, {nearest(name, known)}")
    if tuple(known[name].shape) != blocks.shape:
        raise UserError(f"{name} has shape {tuple(known[name].shape)} in the model, the blocks have {blocks.shape}")


def _replace_stack(model: nn.Module, name: str, module: QuantisedExperts) -> None:
    """The parameter of this name gives way to the module."""
    parent, _, last = name.rpartition(".")
    owner = model.get_submodule(parent)
    delattr(owner, last)
    owner.add_module(last, module.train(owner.training))
