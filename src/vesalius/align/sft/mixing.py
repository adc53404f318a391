"""Rows out of several sources, each of which has its share of the tokens, whatever its size.

The next item is always from the source that has the fewest tokens so far for its weight (stride scheduling: Waldspurger
& Weihl 1995, MIT/LCS/TM-528), so the shares are right after every few items and not only in the mean. A small source
with a large weight comes round often, a large one with a small weight may never be seen whole: each goes through epochs
of its own, shuffled anew.

Drawing the source by chance would do the same in the long run and less well in a short one.
"""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from vesalius.align.rows.packing import BUFFER, check_fingerprint, shuffled_rows
from vesalius.align.rows.spans import Ids


class MixedRows:
    """An endless iterator of rows, each the numbers of the items in it, as `PackedRows` is for one source.

    `lengths` (N,) are the items' tokens, `sources` (N,) the number of each one's source, `weights` what each source is
    to have of all tokens, relative to the others. Every source must have an item.
    """

    def __init__(
        self, lengths: Ids, sources: Ids, weights: Sequence[float], *, context: int, seed: int, fingerprint: str
    ) -> None:
        self.lengths, self.context, self.seed, self.fingerprint = lengths, context, seed, fingerprint
        self.weights = weights
        self._members = [np.flatnonzero(sources == source) for source in range(len(weights))]
        self._orders: dict[int, tuple[int, Ids]] = {}  # source -> (epoch, its items in order)
        self._taken, self._tokens, self._row = [0] * len(weights), [0] * len(weights), 0
        self._fill()

    @property
    def epoch(self) -> int:
        """How often the source that is furthest behind has been seen whole."""
        return min(taken // len(items) for taken, items in zip(self._taken, self._members, strict=True))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[int]:
        row = self._rows[self._row]
        self._row += 1
        if self._row == len(self._rows):
            self._taken, self._tokens, self._row = *self._after, 0
            self._fill()
        return row

    def state_dict(self) -> dict[str, Any]:
        """Where the next row is, as JSON can hold it."""
        return {"taken": self._taken, "tokens": self._tokens, "row": self._row, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was taken. UserError where it belongs to other items or settings."""
        check_fingerprint(state, self.fingerprint)
        self._taken, self._tokens, self._row = list(state["taken"]), list(state["tokens"]), state["row"]
        self._fill()

    def _fill(self) -> None:
        """The rows of the next BUFFER items, and where the sources stand after them."""
        taken, tokens = list(self._taken), list(self._tokens)
        chosen: list[int] = []
        for _ in range(BUFFER):
            source = min(range(len(taken)), key=lambda source: tokens[source] / self.weights[source])
            item = self._item(source, taken[source])
            chosen.append(item)
            taken[source] += 1
            tokens[source] += int(self.lengths[item])
        self._after = taken, tokens
        self._rows = shuffled_rows(chosen, self.lengths, self.context, (self.seed, *self._taken))

    def _item(self, source: int, place: int) -> int:
        """The item at a place of a source's endless order."""
        items = self._members[source]
        epoch, within = divmod(place, len(items))
        if self._orders.get(source, (-1,))[0] != epoch:
            order = np.random.default_rng((self.seed, source, epoch)).permutation(items)
            self._orders[source] = epoch, order
        return int(self._orders[source][1][within])
