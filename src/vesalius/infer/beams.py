"""Beam search over blocks: every beam is a table of them, and beams that begin alike share those of their beginning.

A beam that goes on as two is copied by its numbers only; the block that both write to next is copied when one does
(copy on write; Kwon et al. 2023, arXiv:2309.06180, section 4.4). A search has a pool of its own, as large as its beams
can become: they step together, so that none of them could wait for others.
"""

import torch
from torch import Tensor

from vesalius.infer.beam_search import Beam, BeamSearch
from vesalius.infer.blocks import BlockManager
from vesalius.infer.paged_cache import make_room
from vesalius.infer.reader import Reader
from vesalius.infer.sequence import Sequence
from vesalius.models.config import ModelConfig
from vesalius.models.positions import reread_at


class Beams:
    """The blocks of K beams that have read equally much."""

    def __init__(self, reader: Reader, count: int, adapter: str | None) -> None:
        """`count` blocks, of the size and kind that another reader's are."""
        self.length, self._adapter = 0, adapter
        self._reader = reader.beside(count)
        self._blocks = BlockManager(count, self._reader.pool.size)
        self._tables: list[list[int]] = [[]]

    def read(self, tokens: list[list[int]]) -> Tensor:
        """The new tokens of each beam -> logits (K, V) behind the last."""
        end = self.length + len(tokens[0])
        for table in self._tables:
            make_room(self._reader.pool, self._blocks, table, self.length, end)
        adapters = [self._adapter] * len(tokens)
        hidden = self._reader.read(tokens, [self.length] * len(tokens), self._tables, adapters)  # (K · T, D)
        self.length = end
        return self._reader.logits(hidden.unflatten(0, (len(tokens), -1))[:, -1], adapters)

    def reorder(self, rows: list[int]) -> None:
        """Makes beam i continue what beam rows[i] has read."""
        chosen = [list(self._tables[row]) for row in rows]
        for table in chosen:
            self._blocks.hold(table)
        self._release()
        self._tables = chosen

    def forget(self) -> None:
        """Empties all beams, so that they are read again."""
        self._release()
        self._tables, self.length = [[] for _ in self._tables], 0

    def _release(self) -> None:
        for table in self._tables:
            self._blocks.release(table)


def search_beams(config: ModelConfig, reader: Reader, sequence: Sequence, eos_ids: frozenset[int]) -> list[Beam]:
    """The best beams for a sequence's prompt, best first, in blocks like those of a reader."""
    params, device, size = sequence.params, sequence.generator.device, reader.pool.size
    reread = reread_at(config)
    prompt = torch.tensor(sequence.visible, device=device)  # (T,)
    search = BeamSearch(prompt, params, limit=sequence.limit, eos_ids=eos_ids, adjust=sequence.adjust)
    longest = -(-(sequence.length + sequence.limit) // size)
    shared = 0 if reread else sequence.length // size
    # Before the old beams are given back, the new ones hold the same blocks; each may copy one.
    beams = Beams(reader, shared + params.num_beams * (longest - shared + 1), sequence.adapter)
    logits = beams.read([sequence.prompt]).expand(params.num_beams, -1)  # (K, V)
    beams.reorder([0] * params.num_beams)  # every beam begins with the one prompt
    while True:
        rows = search.advance(logits)
        if search.done:
            return search.finished
        beams.reorder(rows.tolist())
        if beams.length < reread <= search.ids.shape[1]:
            beams.forget()
        logits = beams.read(search.ids[:, beams.length :].tolist())
