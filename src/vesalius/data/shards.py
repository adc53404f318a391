"""Token shards: a tokenised corpus on disk, memory-mapped, so that a corpus may be larger than the memory.

    index.json             what the rest holds; written last, so a directory with an index is complete
    train-00000.bin …      the tokens of the documents one after another, uint16 or uint32, little-endian
    train-offsets.bin      int64: where each document starts, in tokens from the start of the split, and the end
    train-bytes.bin        int64: how many UTF-8 bytes the text of each document has
    validation-…           the same

Each document is stored as the document boundary (`boundary` in the index) and its tokens. The bytes are what bits per
byte divides by.
"""

from bisect import bisect_left, bisect_right
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.files import read_json
from vesalius.data.split import Split

FORMAT = 1

Ids = NDArray[np.unsignedinteger[Any]]


class TextEncoder(Protocol):
    """What this folder needs of a tokenizer."""

    @property
    def document_boundary(self) -> int | None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """How much one split holds; `files` are the tokens in each shard."""

    documents: int
    tokens: int
    bytes: int
    files: list[int]


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What index.json says.

    specs        what the documents were read from, as the person named it
    tokenizer    fingerprint of the tokenizer that wrote the tokens; no other can read them
    boundary     the token that stands before every document
    duplicates   documents that were left out because the same text came before
    """

    specs: list[str]
    tokenizer: str
    vocab_size: int
    boundary: int
    dtype: str
    validation_fraction: float
    duplicates: int
    train: SplitCounts
    validation: SplitCounts
    format: int = FORMAT

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ShardIndex":
        """The inverse of `to_dict`; older indexes call the boundary bos_id."""
        values = {"boundary" if name == "bos_id" else name: value for name, value in values.items()}
        return cls(**values | {split: SplitCounts(**values[split]) for split in ("train", "validation")})


def read_index(directory: Path | str, tokenizer: TextEncoder | None = None) -> ShardIndex:
    """The index of a shard directory. UserError where there is none, or where it was made with another tokenizer."""
    path = Path(directory) / "index.json"
    if not path.exists():
        raise UserError(f"{directory} holds no token shards (no index.json): write them with write_shards")
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise VesaliusError(
            f"{path} has format {values.get('format')}, expected {FORMAT}: remove {directory} and write it again"
        )
    index = ShardIndex.from_dict(values)
    if tokenizer is not None and index.tokenizer != tokenizer.fingerprint:
        raise UserError(
            f"{directory} was made with another tokenizer ({index.tokenizer}, got {tokenizer.fingerprint}): "
            "use that tokenizer, or remove the directory and write it again"
        )
    return index


class TokenShards:
    """One split of a shard directory, memory-mapped.

    `len(shards)` documents; `shards[i]` are the ids of document i, its boundary first; `shards.read(start, stop)` are
    tokens of the whole split, documents one after another.
    """

    def __init__(self, directory: Path | str, split: Split, tokenizer: TextEncoder | None = None) -> None:
        """Opens the split. UserError as in `read_index`; VesaliusError where a file is missing or cut off."""
        self.directory = Path(directory)
        self.split = split
        self.index = read_index(directory, tokenizer)
        counts: SplitCounts = getattr(self.index, split)
        self.n_tokens = counts.tokens
        self.n_bytes = counts.bytes
        self.boundary = self.index.boundary
        dtype = np.dtype(self.index.dtype)
        self._offsets = self._map("offsets", np.dtype(np.int64), counts.documents + 1)
        self.document_bytes = self._map("bytes", np.dtype(np.int64), counts.documents)
        self._shards = [self._map(f"{i:05d}", dtype, n) for i, n in enumerate(counts.files)]
        self._starts = list(accumulate(counts.files[:-1], initial=0))  # of each shard, in tokens

    def __len__(self) -> int:
        return len(self.document_bytes)

    def __getitem__(self, i: int) -> Ids:
        """The ids of document i, a view of the file. IndexError beyond the last."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"document {i} of {len(self)}")
        start, stop = self._offsets[i % len(self)], self._offsets[i % len(self) + 1]
        return self.read(int(start), int(stop))

    def read(self, start: int, stop: int) -> Ids:
        """Tokens start … stop - 1 of the split: a view of the file, or a copy where they lie in more than one."""
        assert 0 <= start <= stop <= self.n_tokens, (start, stop, self.n_tokens)
        first = max(bisect_right(self._starts, start) - 1, 0)
        last = max(bisect_left(self._starts, stop) - 1, first)
        parts = [
            shard[max(start - offset, 0) : stop - offset]
            for shard, offset in zip(self._shards[first : last + 1], self._starts[first : last + 1], strict=True)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _map(self, name: str, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
        """A file as a plain array: slicing `np.memmap` itself costs ten times as much."""
        path = self.directory / f"{self.split}-{name}.bin"
        if not path.exists() or path.stat().st_size != length * dtype.itemsize:
            raise VesaliusError(
                f"{path} is missing or cut off, expected {length} {dtype}s: remove {self.directory} and write it again"
            )
        return np.asarray(np.memmap(path, dtype=dtype.newbyteorder("<"), mode="r"))
