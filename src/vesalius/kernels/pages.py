"""Keys and values in pages, and the ragged batch that reads and fills them. Kwon et al. 2023, arXiv:2309.06180,
section 4.

One step of an engine reads a few tokens of each of many sequences. All of them stand one behind the other as rows;
`Segments` says which rows belong to which sequence, how many positions that one has filled before, and in which blocks
of the pool they lie. A block holds P positions of all key/value heads, so a dense cache is the case of one block a
sequence. Pages of int8 carry one scale for each head and position (as KIVI, arXiv:2402.02750, does per token).
"""

import ctypes
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain

import torch
from torch import Tensor

from vesalius.kernels.native.interface import ELEMENTS, PagesStruct, SegmentsStruct, available, functions, threads


@dataclass(frozen=True, eq=False)
class Pages:
    """One layer's storage: keys (N, K, P, E) and values (N, K, P, E or another width), N blocks of P positions.

    float32, bfloat16, or int8 with scales (N, K, P) float32: value = scale · code. Where `values` is None the values
    are the first `value_width` numbers of the keys (latent attention).
    """

    keys: Tensor
    values: Tensor | None
    key_scales: Tensor | None = None
    value_scales: Tensor | None = None
    value_width: int = 0

    @property
    def positions(self) -> int:
        """P: how many positions a block holds."""
        return self.keys.shape[2]

    @property
    def width(self) -> int:
        """Of the values."""
        return self.value_width if self.values is None else self.values.shape[-1]

    @cached_property
    def is_native(self) -> bool:
        """Whether the native library is there and reads them as they lie."""
        parts = [part for part in (self.keys, self.values, self.key_scales, self.value_scales) if part is not None]
        known = self.keys.dtype in ELEMENTS and all(part.is_cpu and part.is_contiguous() for part in parts)
        return known and available()

    @cached_property
    def struct(self) -> PagesStruct:
        """The native side's view, valid as long as this object lives. Only where it `is_native`."""
        assert self.is_native
        parts = (self.keys, self.values, self.key_scales, self.value_scales)
        addresses = (None if part is None else part.data_ptr() for part in parts)
        _, heads, positions, width = self.keys.shape
        return PagesStruct(*addresses, ELEMENTS[self.keys.dtype], heads, positions, width, self.width)


@dataclass(frozen=True, eq=False)
class Segments:
    """Which rows of a batch are new tokens of which sequence, and where its earlier ones lie.

    counts     new tokens of each sequence; their rows stand one behind the other
    pasts      positions that each sequence has filled before
    tables     the blocks of each sequence in order, with room for the new tokens; a block that a window has left
               behind may be any number
    ancestors  for each row the set of new tokens of its own sequence that it reads, bit j for the j-th; None: all up
               to itself. At most 63 new tokens a sequence: trees of speculative decoding
    """

    counts: list[int]
    pasts: list[int]
    tables: list[list[int]]
    device: torch.device
    ancestors: list[int] | None = None

    @property
    def rows(self) -> int:
        """N: new tokens of all sequences."""
        return sum(self.counts)

    @cached_property
    def firsts(self) -> list[int]:
        """The first row of each sequence."""
        firsts, row = [], 0
        for count in self.counts:
            firsts.append(row)
            row += count
        return firsts

    def slots(self, positions: int) -> tuple[Tensor, Tensor]:
        """Block and place in it of every row, (N,) int64 each, where a block holds so many positions."""
        if positions not in self._slots:
            places = [
                (table[at // positions], at % positions)
                for count, past, table in zip(self.counts, self.pasts, self.tables, strict=True)
                for at in range(past, past + count)
            ]
            blocks, offsets = torch.tensor(places, dtype=torch.int64, device=self.device).view(-1, 2).unbind(1)
            self._slots[positions] = (blocks, offsets)
        return self._slots[positions]

    @cached_property
    def _slots(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}

    def struct(self, positions: int) -> SegmentsStruct:
        """The native side's view, for blocks of so many positions; valid as long as this object lives.

        ValueError where a table has no room for the new tokens. What the lists hold is taken over once.
        """
        if positions not in self._fitting:
            for i, (count, past, table) in enumerate(zip(self.counts, self.pasts, self.tables, strict=True)):
                if past + count > len(table) * positions:
                    raise ValueError(
                        f"sequence {i} needs {past + count} positions, got {len(table)} blocks of {positions}"
                    )
            self._fitting.add(positions)
        return self._struct

    @cached_property
    def _fitting(self) -> set[int]:
        """The sizes of blocks that the tables are long enough for."""
        return set()

    @cached_property
    def _arrays(self) -> "list[array[int]]":
        starts = accumulate(map(len, self.tables), initial=0)
        return [array("q", numbers) for numbers in (self.counts, self.pasts, starts, chain(*self.tables))]

    @cached_property
    def _ancestors(self) -> "array[int]":
        return array("q", self.ancestors or [])

    @cached_property
    def _struct(self) -> SegmentsStruct:
        addresses = [numbers.buffer_info()[0] for numbers in self._arrays]
        ancestors = None if self.ancestors is None else self._ancestors.buffer_info()[0]
        return SegmentsStruct(*addresses, ancestors, len(self.counts), self.rows)


def write_reference(pages: Pages, segments: Segments, k: Tensor, v: Tensor) -> None:
    """Puts the new keys (N, K, E) and values (N, K, width) where they belong, in place."""
    blocks, offsets = segments.slots(pages.positions)
    _put(pages.keys, pages.key_scales, blocks, offsets, k)
    if pages.values is not None:
        _put(pages.values, pages.value_scales, blocks, offsets, v)


def _put(storage: Tensor, scales: Tensor | None, blocks: Tensor, offsets: Tensor, x: Tensor) -> None:
    if scales is None:
        storage[blocks, :, offsets] = x.to(storage.dtype)
        return
    codes, scale = quantise_heads(x)
    storage[blocks, :, offsets] = codes
    scales[blocks, :, offsets] = scale


def write_native(pages: Pages, segments: Segments, k: Tensor, v: Tensor) -> None:
    """The same as `write_reference`, by kernels/native/paged_attention.cpp."""
    rows = [x.to(torch.float32).contiguous() for x in (k, v)]
    pages_at, segments_at = ctypes.byref(pages.struct), ctypes.byref(segments.struct(pages.positions))
    functions().vesalius_paged_write(pages_at, segments_at, *(x.data_ptr() for x in rows), threads())


WRITES: dict[str, Callable[[Pages, Segments, Tensor, Tensor], None]] = {
    "reference": write_reference,
    "native": write_native,
}


def write(pages: Pages, segments: Segments, k: Tensor, v: Tensor, impl: str | None = None) -> None:
    """Puts the new keys (N, K, E) and values (N, K, width) where they belong, in place, by the implementation named, or
    else the fastest there is.
    """
    WRITES[impl or ("native" if pages.is_native else "reference")](pages, segments, k, v)


def quantise_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (…, E) -> codes (…, E) int8 and scale (…) float32 with x ≈ scale · code; error at most half a step."""
    scale = x.float().abs().amax(-1) / 127
    codes = (x.float() / scale.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)).round()
    return codes.to(torch.int8), scale


def gather(pages: Pages, blocks: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of blocks (…, M) as (…, K, M · P, E)."""
    keys = _gathered(pages.keys, pages.key_scales, blocks, dtype)
    if pages.values is None:
        return keys, keys[..., : pages.value_width]
    return keys, _gathered(pages.values, pages.value_scales, blocks, dtype)


def _gathered(storage: Tensor, scales: Tensor | None, blocks: Tensor, dtype: torch.dtype) -> Tensor:
    found = storage[blocks].to(dtype)  # (…, M, K, P, E)
    if scales is not None:
        found = found * scales[blocks].to(dtype).unsqueeze(-1)
    return found.transpose(-4, -3).flatten(-3, -2)
