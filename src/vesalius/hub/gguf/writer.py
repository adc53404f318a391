"""Writing GGUF files, version 3, as llama.cpp reads them: the header first, then one tensor after the other.

The header holds every tensor's place, so formats and shapes must be known before the first block is written; the
blocks need not be. A `PlannedTensor` makes its blocks when its turn comes, and a model of any size is converted with
the memory of one tensor.

Python's numbers do not say how wide they are in a file; a number is written the way llama.cpp expects such keys:

    int    uint32, or int32, uint64, int64 where it does not fit      list of int    int32, or int64, uint64
    float  float32, or float64 where it does not fit                  list of float  float32

A numpy scalar or array is written as what it is.
"""

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from vesalius.core.errors import UserError
from vesalius.core.files import atomic_path
from vesalius.hub.gguf.layout import (
    ALIGNMENT_KEY,
    ARRAY,
    DEFAULT_ALIGNMENT,
    FORMAT_IDS,
    MAGIC,
    MOST_DIMENSIONS,
    MOST_NAME_BYTES,
    SCALARS,
    STRING,
    VERSIONS,
    padded,
)
from vesalius.kernels.block_formats import FORMATS, BlockTensor

KINDS = {np.dtype(name): kind for kind, name in SCALARS.items()}
INT_TYPES = ("<u4", "<i4", "<u8", "<i8")
INT_ARRAY_TYPES = ("<i4", "<i8", "<u8")


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is made when it is written: its format and shape are known, its blocks not yet."""

    format: str
    shape: tuple[int, ...]
    make: Callable[[], BlockTensor]


def write_gguf(
    path: Path | str, metadata: Mapping[str, Any], tensors: Mapping[str, BlockTensor | PlannedTensor]
) -> None:
    """Writes the whole file or nothing; what stood there before is replaced.

    `general.alignment` in the metadata sets the alignment. UserError for a value, a name or a shape that a GGUF file
    cannot hold.
    """
    alignment = _alignment(metadata)
    header = _header(metadata, tensors, alignment)
    with atomic_path(path) as scratch, scratch.open("wb") as file:
        _write_padded(file, header, alignment)
        for name, tensor in tensors.items():
            _write_padded(file, _blocks(name, tensor), alignment)


def _header(metadata: Mapping[str, Any], tensors: Mapping[str, BlockTensor | PlannedTensor], alignment: int) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key, "a key"), _value(key, value)]
    offset = 0
    for name, tensor in tensors.items():
        parts += [_entry(name, tensor), struct.pack("<Q", offset)]
        offset += padded(_size(tensor), alignment)
    return b"".join(parts)


def _entry(name: str, tensor: BlockTensor | PlannedTensor) -> bytes:
    """A tensor's name, shape and format."""
    shape = tensor.shape
    if not 1 <= len(shape) <= MOST_DIMENSIONS or 0 in shape:
        raise UserError(f"tensor {name!r} is {shape}: a GGUF file holds 1 to {MOST_DIMENSIONS} dimensions, none of 0")
    encoded = _string(name, "a tensor's name")
    if len(encoded) - 8 > MOST_NAME_BYTES:
        raise UserError(f"the tensor name {name!r} is longer than {MOST_NAME_BYTES} bytes, which llama.cpp refuses")
    return encoded + struct.pack(f"<I{len(shape)}QI", len(shape), *reversed(shape), FORMAT_IDS[tensor.format])


def _size(tensor: BlockTensor | PlannedTensor) -> int:
    return math.prod(tensor.shape[:-1]) * FORMATS[tensor.format].row_bytes(tensor.shape[-1])


def _blocks(name: str, tensor: BlockTensor | PlannedTensor) -> memoryview:
    """The bytes of a tensor. ValueError where what was made is not what was planned."""
    made = tensor.make() if isinstance(tensor, PlannedTensor) else tensor
    if (made.format, made.shape) != (tensor.format, tensor.shape):
        raise ValueError(
            f"tensor {name!r} was planned as {tensor.format} {tensor.shape}, got {made.format} {made.shape}"
        )
    return made.blocks.contiguous().view(-1).numpy().data


def _write_padded(file: IO[bytes], content: bytes | memoryview, alignment: int) -> None:
    file.write(content)
    file.write(bytes(padded(len(content), alignment) - len(content)))


def _alignment(metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise UserError(f"{ALIGNMENT_KEY} must be a power of two, got {alignment!r}")
    return alignment


def _value(key: str, value: Any) -> bytes:
    """The type of a value and the value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value, key)
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(_string(item, key) for item in value)
    numbers = _numbers(key, value)
    if numbers.dtype not in KINDS or numbers.ndim > 1:
        raise UserError(
            f"key {key!r} is {numbers.ndim}-dimensional {numbers.dtype}: a GGUF file holds bool, int, float and str, "
            "and flat lists of one of them"
        )
    kind = KINDS[numbers.dtype]
    start = struct.pack("<IIQ", ARRAY, kind, len(numbers)) if numbers.ndim else struct.pack("<I", kind)
    return start + numbers.tobytes()


def _numbers(key: str, value: Any) -> np.ndarray:
    """A bool, int or float, or a list of one kind of them, as the array that the file holds, little-endian."""
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return array.astype(array.dtype.newbyteorder("<"))
    items = value if isinstance(value, (list, tuple)) else [value]
    kinds = {type(item) for item in items}
    if kinds == {bool}:
        return np.array(value, "?")
    if kinds <= {int}:  # an empty list is one of integers
        return np.array(value, _int_type(key, items, INT_ARRAY_TYPES if items is value else INT_TYPES))
    if kinds <= {int, float}:
        with np.errstate(over="ignore"):
            narrow = np.array(value, "<f4")
        wide = np.array(value, "<f8")
        return wide if (np.isinf(narrow) & ~np.isinf(wide)).any() else narrow
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise UserError(f"key {key!r} holds {names}: a GGUF file holds bool, int, float and str, and lists of one of them")


def _int_type(key: str, items: Sequence[int], candidates: Sequence[str]) -> str:
    """The first of the types that all items fit into."""
    low, high = min(items, default=0), max(items, default=0)
    for name in candidates:
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return name
    raise UserError(f"key {key!r} holds integers from {low} to {high}: a GGUF file holds 64 bits")


def _string(text: str, what: str) -> bytes:
    """Length and UTF-8."""
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{what}: {text!r} is not valid Unicode ({error.reason}) and cannot be written") from error
    return struct.pack("<Q", len(encoded)) + encoded
