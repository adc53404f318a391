"""Token shards to batches: packed rows for training, every token once for evaluation.

Packed: the documents stand one after another and are cut into windows of `context` tokens, so no position is padding.
Positions start again at every document boundary and at the start of a row; attention must not look across them. The
last token of a document predicts the boundary, which is how a model learns to stop.

An epoch visits every window once in an order that `(seed, epoch)` alone decides, and cuts at another place than the
epoch before, so that a token is not always seen with the same beginning missing. The state is two numbers, and what
must be the same for them to mean the same.
"""

from collections.abc import Iterator
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.data.shards import TokenShards

_NAMED_WINDOWS = 8


class BatchSource(Protocol):
    """What the training loop draws from: batches, and a state from which the same ones come again."""

    def __next__(self) -> Batch: ...
    def __iter__(self) -> Self: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class PackedLoader:
    """Endless shuffled batches of a split: `batch_rows` windows of `context` tokens each.

    Where an epoch ends inside a batch, the batch goes on with the next epoch.
    """

    def __init__(self, shards: TokenShards, *, batch_rows: int, context: int, seed: int) -> None:
        """UserError where the split is shorter than one window."""
        if shards.n_tokens <= context:
            raise UserError(
                f"the {shards.split} split has {shards.n_tokens} tokens, a context of {context} needs {context + 1}: "
                "give more text or a shorter context"
            )
        self._shards, self._rows, self._context, self._seed = shards, batch_rows, context, seed
        self._begin(epoch=0, window=0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        tokens = np.empty((self._rows, self._context + 1), dtype=np.int64)  # (B, T + 1)
        source = []
        filled = 0
        while filled < self._rows:
            if self._window == len(self._starts):
                self._begin(self._epoch + 1, window=0)
            starts = self._starts[self._window : self._window + self._rows - filled].tolist()
            for row, start in enumerate(starts, filled):
                tokens[row] = self._shards.read(start, start + self._context + 1)
            source.append(f"epoch {self._epoch}, windows at tokens {_named(starts)}")
            self._window += len(starts)
            filled += len(starts)
        return _packed_batch(tokens, self._shards.boundary, "; ".join(source))

    def state_dict(self) -> dict[str, Any]:
        """The epoch and how many of its windows were given out, with what a loader must share to go on from there."""
        return {"epoch": self._epoch, "window": self._window, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next batch is the one that would have come. UserError where data, context or seed are others."""
        for name, value in self._identity().items():
            if state[name] != value:
                raise UserError(
                    f"the loader's state has {name} = {state[name]}, got {value}: "
                    "resume with the same data and settings"
                )
        self._begin(state["epoch"], state["window"])

    def _identity(self) -> dict[str, int]:
        return {"seed": self._seed, "context": self._context, "tokens": self._shards.n_tokens}

    def _begin(self, epoch: int, window: int) -> None:
        """Draws the epoch's windows: where in the split each one starts, in the order of visiting."""
        generator = np.random.default_rng([self._seed, epoch])
        spare = self._shards.n_tokens - self._context
        first = int(generator.integers(min(self._context, spare)))
        n_windows = (self._shards.n_tokens - 1 - first) // self._context
        self._starts = first + self._context * generator.permutation(n_windows)
        self._epoch, self._window = epoch, window


class SequentialWindows:
    """The whole split in order, for measuring: every token of every document is a target exactly once.

    Boundaries are no targets: bits per byte counts the text and not where it ends, and `shards.n_bytes` is how many
    bytes all targets have. With `stride` below `context` a window overlaps the one before by context - stride tokens,
    whose targets are ignored: so every token is predicted from at least so many tokens, as far as its document has
    them. Can be iterated any number of times.
    """

    def __init__(self, shards: TokenShards, context: int, batch_rows: int, stride: int | None = None) -> None:
        """ValueError unless 1 <= stride <= context; the stride is the context where none is given."""
        self._shards, self._context, self._rows = shards, context, batch_rows
        self._stride = context if stride is None else stride
        if not 1 <= self._stride <= context:
            raise ValueError(f"stride must lie between 1 and the context {context}, got {stride}")

    @property
    def _n_windows(self) -> int:
        beyond_first = max(self._shards.n_tokens - 1 - self._context, 0)
        return 1 + -(-beyond_first // self._stride)

    def __len__(self) -> int:
        """How many batches."""
        return -(-self._n_windows // self._rows)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, self._n_windows, self._rows):
            yield self._batch(first, min(first + self._rows, self._n_windows))

    def _batch(self, first: int, last: int) -> Batch:
        """Windows first … last - 1; what lies beyond the split is boundaries, which are no targets."""
        tokens = np.full((last - first, self._context + 1), self._shards.boundary, dtype=np.int64)
        for row, window in enumerate(range(first, last)):
            start = window * self._stride
            ids = self._shards.read(start, min(start + self._context + 1, self._shards.n_tokens))
            tokens[row, : len(ids)] = ids
        batch = _packed_batch(tokens, self._shards.boundary, f"{self._shards.split}, windows {first} to {last - 1}")
        batch.targets[batch.targets == self._shards.boundary] = IGNORE
        overlapping = batch.targets[1:] if first == 0 else batch.targets
        overlapping[:, : self._context - self._stride] = IGNORE
        return batch


def _packed_batch(window: NDArray[np.int64], boundary: int, source: str) -> Batch:
    """window (B, T + 1) -> tokens, targets, positions (B, T), which count from their document's start in the row."""
    tokens = window[:, :-1]
    places = np.arange(tokens.shape[1])
    starts = np.maximum.accumulate(np.where(tokens == boundary, places, 0), axis=1)
    return Batch(
        tokens=torch.from_numpy(tokens.copy()),  # copies: where there is one row,
        targets=torch.from_numpy(window[:, 1:].copy()),  # contiguous views would share memory
        positions=torch.from_numpy(places - starts),
        source=source,
    )


def _named(starts: list[int]) -> str:
    names = " ".join(map(str, starts[:_NAMED_WINDOWS]))
    return f"{names} …" if len(starts) > _NAMED_WINDOWS else names
