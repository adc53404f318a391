"""Which conversations, pairs or answers share a row, and in which order the rows come.

Rows are filled by best-fit decreasing (Johnson 1973) within buffers of shuffled items: nearly no padding, and nothing
is cut. The order depends on seed and epoch alone, so three numbers say where the rows are.
"""

import bisect
from collections.abc import Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from vesalius.core.errors import UserError

BUFFER = 2048
"""Items that are packed together: more leave less padding, fewer cost less at the start of each buffer."""

B = TypeVar("B")


class PackedRows:
    """An endless iterator of rows, each the numbers of the items in it, one epoch of all items after another.

    `fingerprint` tells the items and the settings apart from others.
    """

    def __init__(self, lengths: npt.NDArray[np.int64], *, context: int, seed: int, fingerprint: str) -> None:
        self.lengths, self.context, self.seed, self.fingerprint = lengths, context, seed, fingerprint
        self.epoch = self._buffer = self._row = 0
        self._rows = self._pack_buffer()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[int]:
        row = self._rows[self._row]
        self._row += 1
        if self._row == len(self._rows):
            self._buffer, self._row = self._buffer + 1, 0
            if self._buffer * BUFFER >= len(self.lengths):
                self.epoch, self._buffer = self.epoch + 1, 0
            self._rows = self._pack_buffer()
        return row

    def state_dict(self) -> dict[str, Any]:
        """Where the next row is, as JSON can hold it."""
        return {"epoch": self.epoch, "buffer": self._buffer, "row": self._row, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was taken. UserError where it belongs to other items or settings."""
        check_fingerprint(state, self.fingerprint)
        self.epoch, self._buffer, self._row = state["epoch"], state["buffer"], state["row"]
        self._rows = self._pack_buffer()

    def _pack_buffer(self) -> list[list[int]]:
        """The rows of this buffer; they depend on the items, the seed, the epoch and the buffer's number alone."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.lengths))
        chosen = order[self._buffer * BUFFER : (self._buffer + 1) * BUFFER]
        return shuffled_rows(chosen.tolist(), self.lengths, self.context, (self.seed, self.epoch, self._buffer))


def shuffled_rows(
    chosen: Sequence[int], lengths: npt.NDArray[np.int64], context: int, seed: tuple[int, ...]
) -> list[list[int]]:
    """The chosen items in rows, in an order that the seed decides: packing puts the long items first."""
    rows = pack(chosen, lengths[list(chosen)].tolist(), context)
    return [rows[number] for number in np.random.default_rng(seed).permutation(len(rows))]


def check_fingerprint(state: dict[str, Any], fingerprint: str) -> None:
    """UserError where a state belongs to other items or settings."""
    if state["fingerprint"] != fingerprint:
        raise UserError(
            f"the checkpoint's place in the conversations is for data {state['fingerprint']}, got {fingerprint}: "
            "resume with the same files, tokenizer, context and seed, or start a new run"
        )


class Rows(Protocol):
    """Rows of item numbers, one epoch after another: packed as they come, or mixed of several sources (mixing.py)."""

    @property
    def epoch(self) -> int: ...
    def __next__(self) -> list[int]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PackedBatches(Generic[B]):
    """An endless iterator of batches of `count` packed rows, one epoch after another: a batch source of the loop.

    A subclass says how rows become a batch.
    """

    def __init__(self, rows: Rows, count: int) -> None:
        self._rows, self._count = rows, count

    def batch(self, rows: list[list[int]], source: str) -> B:
        """The batch of rows of items with these numbers; `source` is the beginning of what it tells of itself."""
        raise NotImplementedError

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> B:
        return self.next_with_rows()[0]

    def next_with_rows(self) -> tuple[B, list[list[int]]]:
        """The next batch, and the numbers of the items in each of its rows."""
        source = f"epoch {self._rows.epoch}: "
        rows = [next(self._rows) for _ in range(self._count)]
        return self.batch(rows, source), rows

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON can hold it."""
        return self._rows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was taken. UserError where it belongs to other items or settings."""
        self._rows.load_state_dict(state)


def pack(numbers: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: longest first, each into the row where it leaves the least room, else into a new row.

    >>> pack([0, 1, 2, 3], [5, 2, 4, 3], capacity=7)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens that still fit, row), sorted
    for number, length in sorted(zip(numbers, lengths, strict=True), key=lambda pair: -pair[1]):
        fitting = bisect.bisect_left(room, (length, 0))
        if fitting < len(room):
            left, row = room.pop(fitting)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(number)
        bisect.insort(room, (left - length, row))
    return rows
