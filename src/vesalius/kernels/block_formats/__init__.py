"""Block formats: matrices in 2 to 8 bits a weight, as GGUF files keep them (ggml, 2023).

A row is cut into blocks of 32 or 256 neighbours. A block holds small integers and what turns them back into weights:
one or two half-precision numbers and, in the k-quants, small scales for groups inside the block. A row is a whole
number of blocks, so the rows of a matrix can be picked, reordered and joined without unpacking anything.

    format   bits a weight      format   bits a weight      format   bits a weight
    f32         32              q5_0        5.5             q3_k        3.4375
    f16         16              q5_1        6               q4_k        4.5
    bf16        16              q8_0        8.5             q5_k        5.5
    q4_0         4.5            q2_k        2.625           q6_k        6.5625
    q4_1         5              mxfp4       4.25

Here is the readable truth about each format: to float32 and back. Multiplying by such matrices without unpacking
them is kernels/quantised_matmul.py. Left out: the codebook formats (iq*), and writing mxfp4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor

from vesalius.kernels.block_formats import k_quantise, k_quants, legacy, mxfp4, plain

VALUES_AT_ONCE = 1 << 18
"""How many values are converted at once: intermediates stay in the processor's cache and never grow with the tensor."""


@dataclass(frozen=True)
class BlockFormat:
    """How `block_size` weights become `block_bytes` bytes.

    `dequantise` takes uint8 (…, bytes) to float32 (…, values), `quantise` float (…, values) to uint8 (…, bytes), both
    for whole rows; `quantise` is None for formats that are only read.
    """

    name: str
    block_size: int
    block_bytes: int
    dequantise: Callable[[Tensor], Tensor]
    quantise: Callable[[Tensor], Tensor] | None = None

    def row_bytes(self, columns: int) -> int:
        """The bytes of a row of `columns` values. ValueError where they are not whole blocks."""
        if columns % self.block_size:
            raise ValueError(f"a {self.name} row must be a multiple of {self.block_size} values, got {columns}")
        return columns // self.block_size * self.block_bytes


@dataclass(frozen=True, eq=False)
class BlockTensor:
    """A tensor whose rows are kept as blocks: `blocks` is uint8 (…, bytes of a row), `shape` is (…, columns).

    The leading sizes are the same, so `blocks` may be indexed, permuted and concatenated along them (see `of`). The
    bytes may be pages of a mapped file.
    """

    format: str
    shape: tuple[int, ...]
    blocks: Tensor

    def __post_init__(self) -> None:
        expected = (*self.shape[:-1], FORMATS[self.format].row_bytes(self.shape[-1]))
        if self.blocks.dtype != torch.uint8 or tuple(self.blocks.shape) != expected:
            raise ValueError(
                f"{self.format} blocks of a {self.shape} tensor must be uint8 {expected}, "
                f"got {self.blocks.dtype} {tuple(self.blocks.shape)}"
            )

    @classmethod
    def of(cls, format: str, blocks: Tensor) -> Self:
        """The tensor that these rows of blocks, uint8 (…, bytes), are: the way back after picking or joining rows."""
        kind = FORMATS[format]
        return cls(format, (*blocks.shape[:-1], blocks.shape[-1] // kind.block_bytes * kind.block_size), blocks)

    @classmethod
    def quantise(cls, values: Tensor, format: str) -> Self:
        """`values` (…, columns), any float dtype, in blocks. ValueError where the format cannot hold them."""
        quantise = FORMATS[format].quantise
        if quantise is None:
            able = ", ".join(name for name, kind in FORMATS.items() if kind.quantise)
            raise ValueError(f"{format} is only read here, choose one that can be written: {able}")
        return cls(format, tuple(values.shape), quantise(values))

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.blocks.numel()

    def dequantise(self) -> Tensor:
        """float32 of `shape`. For f32 that is a view of the same memory."""
        return FORMATS[self.format].dequantise(self.blocks)


def _dequantise_rows(unpack: Callable[[Tensor], Tensor], size: int, block_bytes: int, rows: Tensor) -> Tensor:
    """uint8 (…, bytes) -> float32 (…, values), some blocks at a time."""
    if rows.shape[-1] % block_bytes:
        raise ValueError(f"a row must be whole blocks of {block_bytes} bytes, got {rows.shape[-1]}")
    values = torch.empty(*rows.shape[:-1], rows.shape[-1] // block_bytes * size)
    blocks, at_once = rows.reshape(-1, block_bytes), VALUES_AT_ONCE // size
    for out, some in zip(values.view(-1, size).split(at_once), blocks.split(at_once), strict=True):
        out.copy_(unpack(some))
    return values


def _quantise_rows(pack: Callable[[Tensor], Tensor], size: int, block_bytes: int, values: Tensor) -> Tensor:
    """float (…, values) -> uint8 (…, bytes), some blocks at a time. ValueError for what is not finite."""
    if values.shape[-1] % size:
        raise ValueError(f"a row must be a multiple of {size} values, got {values.shape[-1]}")
    rows = torch.empty(*values.shape[:-1], values.shape[-1] // size * block_bytes, dtype=torch.uint8)
    blocks, at_once = values.detach().reshape(-1, size), VALUES_AT_ONCE // size
    for out, some in zip(rows.view(-1, block_bytes).split(at_once), blocks.split(at_once), strict=True):
        if not some.isfinite().all():
            raise ValueError("weights to quantise must be finite, got inf or nan: the model has diverged")
        out.copy_(pack(some.float()))
    return rows


def _blocked(
    name: str,
    size: int,
    block_bytes: int,
    unpack: Callable[[Tensor], Tensor],
    pack: Callable[[Tensor], Tensor] | None = None,
) -> BlockFormat:
    """The format of rows, from what one block means."""
    quantise = partial(_quantise_rows, pack, size, block_bytes) if pack else None
    return BlockFormat(name, size, block_bytes, partial(_dequantise_rows, unpack, size, block_bytes), quantise)


FORMATS: dict[str, BlockFormat] = {
    "f32": BlockFormat("f32", 1, 4, plain.dequantise_f32, plain.quantise_f32),
    "f16": BlockFormat("f16", 1, 2, plain.dequantise_f16, plain.quantise_f16),
    "bf16": BlockFormat("bf16", 1, 2, plain.dequantise_bf16, plain.quantise_bf16),
    "q8_0": _blocked("q8_0", 32, 34, legacy.dequantise_q8_0, legacy.quantise_q8_0),
    "q4_0": _blocked("q4_0", 32, 18, legacy.dequantise_q4_0, legacy.quantise_q4_0),
    "q4_1": _blocked("q4_1", 32, 20, legacy.dequantise_q4_1, legacy.quantise_q4_1),
    "q5_0": _blocked("q5_0", 32, 22, legacy.dequantise_q5_0, legacy.quantise_q5_0),
    "q5_1": _blocked("q5_1", 32, 24, legacy.dequantise_q5_1, legacy.quantise_q5_1),
    "mxfp4": _blocked("mxfp4", 32, 17, mxfp4.dequantise_mxfp4),
    "q2_k": _blocked("q2_k", 256, 84, k_quants.dequantise_q2_k, k_quantise.quantise_q2_k),
    "q3_k": _blocked("q3_k", 256, 110, k_quants.dequantise_q3_k, k_quantise.quantise_q3_k),
    "q4_k": _blocked("q4_k", 256, 144, k_quants.dequantise_q4_k, k_quantise.quantise_q4_k),
    "q5_k": _blocked("q5_k", 256, 176, k_quants.dequantise_q5_k, k_quantise.quantise_q5_k),
    "q6_k": _blocked("q6_k", 256, 210, k_quants.dequantise_q6_k, k_quantise.quantise_q6_k),
}
