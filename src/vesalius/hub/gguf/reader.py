"""Reading GGUF files: the metadata as Python values, the tensors as blocks that stay in the mapped file.

Nothing of a tensor is read before it is used, and pages that are used can be dropped again by the operating system.
The mapping is private: writing to a block leaves the file as it is.
A file may come from anyone. Every number in it is checked before it is used (see cursor.py), and tensors must lie
inside the file, aligned and apart from each other: one that shares bytes with others could make a small file unpack to
any size.
Models in several files: parts.py. Left out: big-endian files, version 1 (before August 2023).
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.hub.gguf.cursor import Cursor
from vesalius.hub.gguf.layout import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    FORMAT_IDS,
    MAGIC,
    MOST_DIMENSIONS,
    MOST_ENTRIES,
    OTHER_FORMATS,
    VERSIONS,
    padded,
)
from vesalius.kernels.block_formats import FORMATS, BlockTensor

FORMAT_NAMES = {number: name for name, number in FORMAT_IDS.items()}
HEADER_BYTES = 24
LEAST_KEY_BYTES = 8 + 4 + 1
LEAST_ENTRY_BYTES = 8 + 4 + 8 + 4 + 8


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """What a file holds: its keys in their order, and its tensors with shapes in torch's order (rows first)."""

    metadata: dict[str, Any]
    tensors: dict[str, BlockTensor]


@dataclass(frozen=True)
class _Entry:
    """Where a tensor is said to lie, from the start of the data."""

    name: str
    format: str
    shape: tuple[int, ...]
    offset: int

    @property
    def blocks_shape(self) -> tuple[int, ...]:
        return (*self.shape[:-1], FORMATS[self.format].row_bytes(self.shape[-1]))

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.blocks_shape)


def read_gguf(path: Path | str) -> GGUFFile:
    """The metadata and the memory-mapped tensors of a file. UserError in one line where it is not what it should be."""
    path = Path(path)
    data = _mapped(path)
    cursor = Cursor(path, data.numpy())
    _check_version(cursor)
    tensors = _entries(cursor, LEAST_ENTRY_BYTES, "tensors")
    metadata = _read_metadata(cursor, _entries(cursor, LEAST_KEY_BYTES, "keys"))
    entries = [_read_entry(cursor) for _ in range(tensors)]
    alignment = _alignment(cursor, metadata)
    start = padded(cursor.at, alignment)
    _check_places(cursor, entries, len(data) - start, alignment)
    blocks = {e.name: data[start + e.offset : start + e.end].view(e.blocks_shape) for e in entries}
    return GGUFFile(metadata, {e.name: BlockTensor(e.format, e.shape, blocks[e.name]) for e in entries})


def _mapped(path: Path) -> Tensor:
    """All bytes of a file, uint8 (size,), mapped privately."""
    try:
        if not path.is_file():
            raise UserError(f"no GGUF file at {path}: expected the path of a file")
        size = path.stat().st_size
        if size < HEADER_BYTES:
            raise UserError(f"{path} has {size} bytes, a GGUF file begins with {HEADER_BYTES}: fetch it again")
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except (OSError, RuntimeError) as error:  # torch has only RuntimeError for a file that may not be opened
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}): check its permissions") from error


def _check_version(cursor: Cursor) -> None:
    magic = bytes(cursor.take(4, "the magic"))
    if magic != MAGIC:
        raise UserError(f"{cursor.path} is no GGUF file: it begins with {magic!r}, expected {MAGIC!r}")
    version = cursor.scalar("<u4", "the version")
    if version in VERSIONS:
        return
    if version and version & 0xFFFF == 0:
        raise UserError(f"{cursor.path} is a big-endian GGUF file, expected little-endian: convert the model again")
    raise UserError(f"{cursor.path} is GGUF version {version}, expected {' or '.join(map(str, VERSIONS))}")


def _entries(cursor: Cursor, least_bytes: int, what: str) -> int:
    number = cursor.count(least_bytes, what)
    if number > MOST_ENTRIES:
        cursor.refuse(f"it promises {number} {what}, at most {MOST_ENTRIES} are read")
    return number


def _read_metadata(cursor: Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.string("the name of a key")
        if key in metadata:
            cursor.refuse(f"it has the key {_shown(key)} twice")
        metadata[key] = cursor.value(_shown(key))
    return metadata


def _read_entry(cursor: Cursor) -> _Entry:
    name = cursor.string("the name of a tensor")
    shown = f"tensor {_shown(name)}"
    dimensions = cursor.scalar("<u4", f"the number of dimensions of {shown}")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        cursor.refuse(f"{shown} has {dimensions} dimensions, expected 1 to {MOST_DIMENSIONS}")
    shape = tuple(reversed(cursor.scalars("<u8", dimensions, f"the shape of {shown}")))
    if 0 in shape:
        cursor.refuse(f"{shown} is empty, its shape is {shape}")
    kind = cursor.scalar("<u4", f"the format of {shown}")
    offset = cursor.scalar("<u8", f"the offset of {shown}")
    if kind in OTHER_FORMATS:
        raise UserError(
            f"{cursor.path} keeps {shown} as {OTHER_FORMATS[kind]}, which is not read here: "
            f"fetch the model in another format ({', '.join(FORMATS)})"
        )
    if kind not in FORMAT_NAMES:
        cursor.refuse(f"{shown} has the unknown format {kind}")
    block_size = FORMATS[FORMAT_NAMES[kind]].block_size
    if shape[-1] % block_size:
        cursor.refuse(f"{shown} has rows of {shape[-1]} values, {FORMAT_NAMES[kind]} needs a multiple of {block_size}")
    return _Entry(name, FORMAT_NAMES[kind], shape, offset)


def _alignment(cursor: Cursor, metadata: dict[str, Any]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        cursor.refuse(f"{ALIGNMENT_KEY} is {_shown(alignment)}, expected a power of two")
    return alignment


def _check_places(cursor: Cursor, entries: list[_Entry], size: int, alignment: int) -> None:
    """Every name once; every tensor aligned, inside the data and apart from the others."""
    if doubled := [name for name, count in Counter(e.name for e in entries).items() if count > 1]:
        cursor.refuse(f"it has the tensor {_shown(doubled[0])} twice")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.offset):
        shown = f"tensor {_shown(entry.name)}"
        if entry.offset % alignment:
            cursor.refuse(f"{shown} begins at {entry.offset}, which is no multiple of the alignment {alignment}")
        if entry.end > size:
            cursor.refuse(f"{shown} takes the data up to byte {entry.end}, which ends at byte {max(size, 0)}")
        if entry.offset < end:
            cursor.refuse(f"{shown} shares bytes with another tensor")
        end = entry.end


def _shown(value: object) -> str:
    """A value from the file in one short line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
