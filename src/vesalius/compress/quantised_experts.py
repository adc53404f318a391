"""One projection of a mixture's experts over block-quantised weights: the stack of matrices stays in its blocks.

It stands in the place of one of the parameters of models/experts.Experts, so a model may keep some projections in one
format, others in another, and others as floats. Rows come sorted by expert; every expert that has rows is one quantised
product, and the matrices of the others are not read.
"""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor

from vesalius.compress.quantised_module import QuantisedModule
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.packing import PackedMatrix, pack
from vesalius.kernels.quantised_matmul import quantised_matmul


class QuantisedExperts(QuantisedModule):
    """rows (M, D), sorted by expert, and sizes (N,) of sum M -> (M, F) in the rows' dtype."""

    def __init__(self, matrices: Sequence[PackedMatrix]) -> None:
        """N matrices (F, D), all of one format."""
        super().__init__()
        self.matrices = tuple(matrices)

    @classmethod
    def from_blocks(cls, blocks: BlockTensor, release: Callable[[Tensor], None] = lambda _: None) -> Self:
        """Packs `blocks` (N, F, D); `release` is called with the blocks of each expert that has been packed."""
        return cls(_packed(blocks, release))

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.matrices), self.matrices[0].rows, self.matrices[0].columns

    @property
    def format(self) -> str:
        return self.matrices[0].format

    @property
    def expert_bytes(self) -> int:
        """Bytes that the product of one expert reads."""
        return self.matrices[0].nbytes

    @property
    def packed(self) -> tuple[PackedMatrix, ...]:
        return self.matrices

    def hold(self, matrices: tuple[PackedMatrix, ...]) -> None:
        self.matrices = matrices

    def blocks(self) -> BlockTensor:
        return BlockTensor.of(self.format, torch.stack([matrix.blocks().blocks for matrix in self.matrices]))

    def pack(self, blocks: BlockTensor) -> None:
        self.matrices = tuple(_packed(blocks))

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        groups = zip(rows.split(sizes.tolist()), self.matrices, strict=True)
        products = [quantised_matmul(some, matrix) for some, matrix in groups if len(some)]
        return (torch.cat(products) if products else rows.new_empty(0, self.shape[1])).to(rows.dtype)

    def extra_repr(self) -> str:
        experts, rows, columns = self.shape
        return f"{experts}, {columns}, {rows}, format={self.format}"


def _packed(blocks: BlockTensor, release: Callable[[Tensor], None] = lambda _: None) -> list[PackedMatrix]:
    experts = (BlockTensor(blocks.format, blocks.shape[1:], expert) for expert in blocks.blocks)  # (F, bytes of a row)
    return [pack(expert, release=release) for expert in experts]
