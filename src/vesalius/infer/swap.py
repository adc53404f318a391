"""Copies of what blocks hold: in memory, or in a file that is mapped into it.

Kwon et al. 2023, arXiv:2309.06180, section 4.5: putting the blocks of a sequence aside costs moving them twice, reading
them again costs computing them. On a CPU both are in the same memory, so what a file saves is memory, and what putting
aside saves is time. The file takes its whole room when it is made, and its pages are let go when they have been used.
"""

import math
import mmap
import tempfile
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from vesalius.core.errors import VesaliusError
from vesalius.core.mapping import let_go, reserved
from vesalius.infer.paged_cache import BlockPool


class SwapSpace:
    """Room for `nbytes` of blocks of one pool, in slots."""

    def __init__(self, pool: BlockPool, nbytes: int, file: Path | str | None = None) -> None:
        """`file` may be a directory, for one without a name in it. VesaliusError where it cannot be made that large."""
        self._pool = pool
        self._like = [part.transpose(0, 1) for part in pool.read([])]  # (0, L, …) each
        count = nbytes // pool.block_bytes
        self._in_file = count > 0 and file is not None
        if count and file is not None:
            room = torch.frombuffer(_mapped(count * pool.block_bytes, Path(file)), dtype=torch.uint8)
        else:
            room = torch.empty(count * pool.block_bytes, dtype=torch.uint8)
        self._slots = room.view(count, pool.block_bytes)
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
        self._let_go()
        self._held[self._next] = slots
        self._next += 1
        return self._next - 1

    def read(self, tickets: list[int], blocks: list[int]) -> None:
        """Puts what was copied, all of it at once, into as many blocks."""
        slots = torch.tensor([slot for ticket in tickets for slot in self._held[ticket]], dtype=torch.int64)
        contents, first = [], 0
        for like in self._like:
            end = first + math.prod(like.shape[1:]) * like.element_size()
            part = self._slots[:, first:end].index_select(0, slots)  # (M, bytes)
            contents.append(part.view(like.dtype).view(-1, *like.shape[1:]).transpose(0, 1))
            first = end
        self._let_go()
        self._pool.write(blocks, contents)

    def take(self, ticket: int, blocks: list[int]) -> None:
        """The same of one, and forgets it."""
        self.read([ticket], blocks)
        self.drop(ticket)

    def drop(self, ticket: int) -> None:
        """Forgets what was copied."""
        self._free.extend(self._held.pop(ticket))

    def _let_go(self) -> None:
        if self._in_file:
            let_go(self._slots)


def _bytes(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.uint8).flatten(1) if x.dtype != torch.uint8 else x.flatten(1)


def _mapped(size: int, file: Path) -> mmap.mmap:
    try:
        with _opened(file) as opened:
            return reserved(opened, size)
    except OSError as error:
        raise VesaliusError(
            f"{file}: no room for {size} bytes of keys and values ({error.strerror}): ask for fewer, or another file"
        ) from error


def _opened(file: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=file) if file.is_dir() else file.open("w+b")
