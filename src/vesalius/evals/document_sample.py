"""A part of a split that stands for the whole: whole documents, so that their bytes are known exactly.

Documents are drawn at random and not from the front: a corpus is stored in the order of its files, so its beginning is
all of one kind. The same split, size and seed give the same documents, so that measurements compare.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vesalius.data.shards import TokenShards
from vesalius.data.split import Split


class Documents(Protocol):
    """What measuring asks of `TokenShards`, with the meaning it has there. Tokens count boundaries, bytes do not."""

    split: Split
    boundary: int
    n_tokens: int
    n_bytes: int

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> NDArray[np.unsignedinteger]: ...
    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]: ...


class DocumentSample:
    """Chosen documents of a split, in memory."""

    def __init__(self, shards: TokenShards, chosen: Sequence[int]) -> None:
        self.split = shards.split
        self.boundary = shards.boundary
        self._documents = [shards[i] for i in chosen]
        self._tokens = np.concatenate(self._documents)
        self.n_tokens = len(self._tokens)
        self.n_bytes = int(shards.document_bytes[list(chosen)].sum())

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, i: int) -> NDArray[np.unsignedinteger]:
        return self._documents[i]

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        return self._tokens[start:stop]


def sample_documents(shards: TokenShards, max_tokens: int | None, *, seed: int = 0) -> Documents:
    """Random whole documents of `max_tokens` tokens or fewer in all, at least one; the split itself where it fits."""
    if max_tokens is None or shards.n_tokens <= max_tokens:
        return shards
    chosen: list[int] = []
    total = 0
    for i in np.random.default_rng(seed).permutation(len(shards)).tolist():
        total += len(shards[i])
        if chosen and total > max_tokens:
            break
        chosen.append(i)
    return DocumentSample(shards, sorted(chosen))
