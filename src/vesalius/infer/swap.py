"""Where the blocks of a sequence wait that had to make room for others: in memory, or in a file that is mapped into it.

Kwon et al. 2023, arXiv:2309.06180, section 4.5: putting blocks aside costs moving them twice, reading them again costs
computing them. On a CPU both are in the same memory, so what a file saves is memory, and what putting aside saves is
time.
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from vesalius.core.errors import VesaliusError
from vesalius.infer.paged_cache import BlockPool


class SwapSpace:
    """Room for `nbytes` of blocks of one pool, in slots."""

    def __init__(self, pool: BlockPool, nbytes: int, file: Path | str | None = None) -> None:
        """VesaliusError where the file cannot be made that large."""
        self._pool = pool
        count = nbytes // pool.block_bytes
        self._slots = _room(count, pool.block_bytes, file if count else None)
        self._free = list(range(count - 1, -1, -1))
        self._held: dict[int, list[int]] = {}
        self._next = 0

    @property
    def free(self) -> int:
        """How many more blocks there is room for."""
        return len(self._free)

    def put(self, blocks: list[int]) -> int | None:
        """Copies what blocks hold and returns what to ask for it by; None where there is no room."""
        if len(blocks) > len(self._free):
            return None
        slots = [self._free.pop() for _ in blocks]
        parts = [_bytes(part.transpose(0, 1)) for part in self._pool.read(blocks)]  # (M, bytes) each
        self._slots[torch.tensor(slots, dtype=torch.int64)] = torch.cat(parts, dim=1).cpu()
        self._held[self._next] = slots
        self._next += 1
        return self._next - 1

    def take(self, ticket: int, blocks: list[int]) -> None:
        """Puts what was copied into as many blocks, and forgets it."""
        slots = self._held[ticket]
        rows = self._slots[torch.tensor(slots, dtype=torch.int64)]  # (M, bytes)
        shapes = [part.transpose(0, 1) for part in self._pool.read(blocks)]  # (M, L, …) each
        pieces = rows.split([math.prod(shape.shape[1:]) * shape.element_size() for shape in shapes], dim=1)
        contents = [
            piece.contiguous().view(shape.dtype).view(shape.shape).transpose(0, 1)
            for piece, shape in zip(pieces, shapes, strict=True)
        ]
        self._pool.write(blocks, contents)
        self.drop(ticket)

    def drop(self, ticket: int) -> None:
        """Forgets what was copied."""
        self._free.extend(self._held.pop(ticket))


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8).flatten(1) if x.dtype != torch.uint8 else x.flatten(1)


def _room(count: int, width: int, file: Path | str | None) -> Tensor:
    if file is None:
        return torch.empty(count, width, dtype=torch.uint8)
    try:
        with Path(file).open("wb") as out:
            out.truncate(count * width)
        return torch.from_file(str(file), shared=True, size=count * width, dtype=torch.uint8).view(count, width)
    except (OSError, RuntimeError) as error:
        raise VesaliusError(f"{file}: {count * width} bytes of blocks cannot be put aside there: {error}") from error
