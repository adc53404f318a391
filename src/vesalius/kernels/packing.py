"""Quantised matrices as the products want them: packed once, at the size of the stored blocks.

With the native library: tiles of 16 rows (native/quantised.h), from which the blocks come back bit for bit. Without it
the blocks stay as they are, in the mapped file if they came from one, and `torch_form` holds what torch multiplies.

Sizes: the tiles are as large as the blocks but for whole tiles of rows, and a little more for some k-quants, whose
small scales of 4 and 6 bits become bytes: q2_k 19 %, q3_k 4 %, q4_k 3 %, q5_k 2 %. Left out: other devices.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vesalius.kernels.block_formats import FORMATS, BlockTensor
from vesalius.kernels.native.interface import FORMAT_NUMBERS, MatrixStruct, available, functions, threads
from vesalius.kernels.torch_forms import TorchForm, form_bytes, torch_form

TILE = 16  # rows
ROWS_AT_ONCE = 256 * TILE  # packed together: of a mapped file no more than these are in memory beside their copy
LINE = 64  # bytes: four columns of a tile's rows at 8 bits

TILE_BYTES: dict[str, tuple[int, int, int]] = {
    # columns of a super-block, bytes of its codes in a tile, bytes of its scales in a tile: native/formats.h
    "q4_0": (32, 4 * LINE, 2 * TILE),
    "q4_1": (32, 4 * LINE, 4 * TILE),
    "q5_0": (32, 5 * LINE, 2 * TILE),
    "q5_1": (32, 5 * LINE, 4 * TILE),
    "q8_0": (32, 8 * LINE, 2 * TILE),
    "q2_k": (256, 16 * LINE, (4 + 32) * TILE),
    "q3_k": (256, 24 * LINE, (2 + 16) * TILE),
    "q4_k": (256, 32 * LINE, (4 + 16) * TILE),
    "q5_k": (256, 40 * LINE, (4 + 16) * TILE),
    "q6_k": (256, 48 * LINE, (2 + 16) * TILE),
}


@dataclass(frozen=True, eq=False)
class Tiles:
    """codes and scales, uint8 (tiles, bytes of a tile), laid out as native/formats.h says."""

    codes: Tensor
    scales: Tensor


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix (rows, columns) to multiply with: tiles, or the stored blocks where there is no native library.

    `format` is a name of kernels.block_formats.FORMATS. The tensors are never replaced, so their addresses stay valid.
    """

    format: str
    rows: int
    columns: int
    tiles: Tiles | None = None
    stored: BlockTensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        if self.tiles is None:
            return form_bytes(self.format, self.rows, self.columns)
        return self.tiles.codes.nbytes + self.tiles.scales.nbytes

    @property
    def tensors(self) -> list[Tensor]:
        """All that products and `blocks` read."""
        if self.tiles is not None:
            return [self.tiles.codes, self.tiles.scales]
        assert self.stored is not None
        return [self.stored.blocks, *self.torch_form.tensors]

    def moved(self, move: Callable[[Tensor], Tensor]) -> "PackedMatrix":
        """The same matrix, each of its `tensors` where `move` puts it."""
        if self.tiles is not None:
            return replace(self, tiles=Tiles(move(self.tiles.codes), move(self.tiles.scales)))
        assert self.stored is not None
        moved = replace(self, stored=replace(self.stored, blocks=move(self.stored.blocks)))
        vars(moved)["torch_form"] = self.torch_form.moved(move)  # made from the blocks again it would be a copy
        return moved

    def struct(self) -> MatrixStruct:
        """The native side's view, valid as long as this object lives. Only where there are tiles."""
        assert self.tiles is not None
        codes, scales = self.tiles.codes.data_ptr(), self.tiles.scales.data_ptr()
        return MatrixStruct(FORMAT_NUMBERS[self.format], self.rows, self.columns, codes, scales)

    def blocks(self) -> BlockTensor:
        """The blocks that were packed, bit for bit."""
        if self.stored is not None:
            return self.stored
        blocks = torch.empty(self.rows, FORMATS[self.format].row_bytes(self.columns), dtype=torch.uint8)
        functions().vesalius_unpack(ctypes.byref(self.struct()), blocks.data_ptr(), threads())
        return BlockTensor(self.format, (self.rows, self.columns), blocks)

    def dequantise(self, first: int = 0, last: int | None = None) -> Tensor:
        """Rows first to last - 1, all by default, as float32 (rows, columns). IndexError where there are fewer."""
        last = self.rows if last is None else last
        if not 0 <= first <= last <= self.rows:
            raise IndexError(f"rows {first} to {last} are asked for, the matrix has {self.rows}")
        if self.stored is not None:
            return BlockTensor.of(self.format, self.stored.blocks[first:last]).dequantise()
        out = torch.empty(last - first, self.columns)
        functions().vesalius_dequantise(ctypes.byref(self.struct()), first, last, out.data_ptr(), threads())
        return out

    def gather(self, ids: Tensor) -> Tensor:
        """ids (…) of any integer type -> those rows as float32 (…, columns). IndexError where an id is not a row."""
        flat = ids.reshape(-1).to(torch.int64).contiguous()
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < self.rows:
            raise IndexError(f"ids must be 0 to {self.rows - 1}, got {int(flat.min())} to {int(flat.max())}")
        if self.stored is not None:
            out = BlockTensor.of(self.format, self.stored.blocks[flat]).dequantise()
        else:
            out, struct = torch.empty(flat.numel(), self.columns), ctypes.byref(self.struct())
            functions().vesalius_gather(struct, flat.data_ptr(), flat.numel(), out.data_ptr(), threads())
        return out.view(*ids.shape, self.columns)

    @cached_property
    def torch_form(self) -> TorchForm:
        """What torch multiplies with, made when first asked for; beside tiles it takes memory of its own."""
        return torch_form(self.blocks())


def pack(
    blocks: BlockTensor, *, tiles: bool | None = None, release: Callable[[Tensor], None] = lambda _: None
) -> PackedMatrix:
    """Packs a matrix of quantised blocks for `quantised_matmul`.

    tiles: True or False to choose the layout; None takes tiles where the native library is there. `release` is called
    with rows of blocks that have been read. ValueError for other shapes, formats and devices.
    """
    _check(blocks)
    rows, columns = blocks.shape
    if not (available() if tiles is None else tiles):
        return PackedMatrix(blocks.format, rows, columns, stored=blocks)
    size, code_bytes, scale_bytes = TILE_BYTES[blocks.format]
    count, supers = -(-rows // TILE), columns // size
    empty = Tiles(
        torch.empty(count, supers * code_bytes, dtype=torch.uint8),
        torch.empty(count, supers * scale_bytes, dtype=torch.uint8),
    )
    for first in range(0, rows, ROWS_AT_ONCE):
        some = slice(first // TILE, (first + ROWS_AT_ONCE) // TILE)
        source = blocks.blocks[first : first + ROWS_AT_ONCE].contiguous()
        part = Tiles(empty.codes[some], empty.scales[some])
        struct = PackedMatrix(blocks.format, len(source), columns, tiles=part).struct()
        functions().vesalius_pack(ctypes.byref(struct), source.data_ptr(), threads())
        release(source)
    return PackedMatrix(blocks.format, rows, columns, tiles=empty)


def packed_bytes(format: str, rows: int, columns: int) -> int:
    """What `pack` keeps of such a matrix."""
    if not available():
        return rows * FORMATS[format].row_bytes(columns) + form_bytes(format, rows, columns)
    size, code_bytes, scale_bytes = TILE_BYTES[format]
    return -(-rows // TILE) * (columns // size) * (code_bytes + scale_bytes)


def _check(blocks: BlockTensor) -> None:
    if len(blocks.shape) != 2:
        raise ValueError(f"a matrix (rows, columns) is needed, got shape {blocks.shape}: pack its parts one by one")
    if blocks.format not in FORMAT_NUMBERS:
        known = ", ".join(FORMAT_NUMBERS)
        raise ValueError(f"{blocks.format} is not a quantised format ({known}): keep it in a plain linear layer")
    if blocks.blocks.device.type != "cpu":
        raise ValueError(f"blocks must be on the CPU, got {blocks.blocks.device}: move them there")
