"""Many short sequences of token ids, each token with a mark, end to end in two arrays.

Lists of Python integers would take ten times the memory.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Spans:
    """Sequence i is at `starts[i]:starts[i + 1]` of `ids` and `marks`; `spans[i]` is the two together."""

    ids: npt.NDArray[np.unsignedinteger[Any]]
    marks: Marks
    starts: Ids

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> tuple[Ids, Marks]:
        place = slice(self.starts[number], self.starts[number + 1])
        return self.ids[place].astype(np.int64), self.marks[place]

    @property
    def lengths(self) -> Ids:
        return np.diff(self.starts)

    def fingerprint(self, settings: str) -> str:
        """Tells these sequences, used in this way, apart from all others."""
        digest = hashlib.blake2b(settings.encode(), digest_size=8)
        for part in (self.ids, self.marks, self.starts):
            digest.update(part.tobytes())
        return digest.hexdigest()


class SpansWriter:
    """Collects sequences; `done` gives them."""

    def __init__(self, vocab_size: int) -> None:
        self._ids, self._marks, self._starts = array("H" if vocab_size <= 2**16 else "I"), bytearray(), [0]

    def add(self, ids: Sequence[int], marks: Sequence[bool]) -> None:
        self._ids.extend(ids)
        self._marks.extend(marks)
        self._starts.append(len(self._ids))

    def done(self) -> Spans:
        ids = np.frombuffer(self._ids, np.dtype(self._ids.typecode))
        return Spans(ids, np.frombuffer(self._marks, np.bool_), np.array(self._starts))
