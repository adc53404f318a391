"""One pass of the model over a few tokens of each of many sequences: one row of tokens, and a cache that knows whose
each is.
"""

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from vesalius.infer.paged_cache import BatchCache, BlockPool
from vesalius.kernels.paged_attention import Segments
from vesalius.models.transformer import Transformer


class Reader:
    """Reads tokens into the blocks of a pool."""

    def __init__(self, model: Transformer, pool: BlockPool) -> None:
        self._model, self._pool = model, pool

    def read(
        self,
        tokens: Rows[list[int]],
        pasts: list[int],
        tables: list[list[int]],
        ancestors: list[int] | None = None,
        depths: list[int] | None = None,
    ) -> Tensor:
        """The new tokens of each sequence, how many it has read before, and its blocks, which have room for them ->
        hidden states (N, D), all rows one behind the other.

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
        return self._model.model(both[:1], both[1:], BatchCache(self._pool, segments))[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (S, D) -> (S, V) float32."""
        return self._model.logits(hidden)
