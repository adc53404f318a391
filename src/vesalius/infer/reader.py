"""One pass of the model over a few tokens of each of many sequences: one row of tokens, and a cache that knows whose
each is.
"""

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from vesalius.infer.adapters import Adapters
from vesalius.infer.paged_cache import BatchCache, BlockPool
from vesalius.infer.scheduler import Slice
from vesalius.kernels.paged_attention import Segments
from vesalius.models.transformer import Transformer


class Reader:
    """Reads tokens into the blocks of a pool."""

    def __init__(self, model: Transformer, pool: BlockPool, adapters: Adapters) -> None:
        self._model, self._pool, self._adapters = model, pool, adapters

    @property
    def pool(self) -> BlockPool:
        """Where it reads to."""
        return self._pool

    def beside(self, count: int) -> "Reader":
        """One with a pool of its own, of so many blocks of the same kind."""
        return Reader(self._model, self._pool.of_size(count), self._adapters)

    def read(
        self,
        tokens: Rows[list[int]],
        pasts: list[int],
        tables: list[list[int]],
        adapters: Rows[str | None],
        ancestors: list[int] | None = None,
        depths: list[int] | None = None,
    ) -> Tensor:
        """The new tokens of each sequence, how many it has read before, its blocks, which have room for them, and its
        adapter -> hidden states (N, D), all rows one behind the other.

        ancestors, depths  where the new tokens are no line but a tree: see Segments, and how deep in it each row is
        """
        counts = [len(new) for new in tokens]
        segments = Segments(counts, pasts, tables, self._pool.device, ancestors)
        if depths is None:
            places = [place for past, count in zip(pasts, counts, strict=True) for place in range(past, past + count)]
        else:
            owners = [past for past, count in zip(pasts, counts, strict=True) for _ in range(count)]
            places = [past + depth for past, depth in zip(owners, depths, strict=True)]
        row = [token for new in tokens for token in new]
        both = torch.tensor([row, places], device=self._pool.device)  # (2, N)
        with self._adapters.by_row(adapters, counts):
            return self._model.model(both[:1], both[1:], BatchCache(self._pool, segments))[0]

    def read_slices(self, parts: Rows[Slice]) -> Tensor:
        """The tokens of every slice, drafts included -> hidden states (N, D)."""
        sequences = [part.sequence for part in parts]
        trees = any(not part.draft.is_chain for part in parts)
        return self.read(
            [part.tokens for part in parts],
            [sequence.read for sequence in sequences],
            [sequence.table for sequence in sequences],
            [sequence.adapter for sequence in sequences],
            [row for part in parts for row in part.ancestors] if trees else None,
            [depth for part in parts for depth in part.depths] if trees else None,
        )

    def logits(self, hidden: Tensor, adapters: Rows[str | None]) -> Tensor:
        """hidden (S, D), and the adapter of each row's sequence -> (S, V) float32."""
        with self._adapters.by_row(adapters, [1] * len(adapters)):
            return self._model.logits(hidden)
