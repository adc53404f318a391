"""Which conversations, pairs or answers share a row, and in which order the rows come.

Rows are filled by best-fit decreasing (Johnson 1973) within buffers of shuffled items: nearly no padding, and nothing
is cut. The order depends on seed and epoch alone, so three numbers say where the rows are.
"""

import bisect
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from vesalius.core.errors import UserError

BUFFER = 2048
"""Items that are packed together: more leave less padding, fewer cost less at the start of each buffer."""


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
        if state["fingerprint"] != self.fingerprint:
            raise UserError(
                f"the checkpoint's place in the conversations is for data {state['fingerprint']}, got "
                f"{self.fingerprint}: resume with the same files, tokenizer, context and seed, or start a new run"
            )
        self.epoch, self._buffer, self._row = state["epoch"], state["buffer"], state["row"]
        self._rows = self._pack_buffer()

    def _pack_buffer(self) -> list[list[int]]:
        """The rows of this buffer; they depend on the items, the seed, the epoch and the buffer's number alone."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.lengths))
        chosen = order[self._buffer * BUFFER : (self._buffer + 1) * BUFFER]
        rows = pack(chosen.tolist(), self.lengths[chosen].tolist(), self.context)
        shuffled = np.random.default_rng((self.seed, self.epoch, self._buffer)).permutation(len(rows))
        return [rows[number] for number in shuffled]  # packing puts the long items first


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
