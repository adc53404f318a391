"""What follows from a sequence's having been read further: its blocks can be found by others, those that a window has
left behind are free, and what was asked of the reading itself (scores, an embedding) is taken from the hidden states.
"""

import torch
from torch import Tensor

from vesalius.infer.blocks import GONE, BlockManager
from vesalius.infer.reader import Reader
from vesalius.infer.scheduler import Slice
from vesalius.infer.sequence import Sequence
from vesalius.models.config import ModelConfig
from vesalius.models.positions import slides

SCORED_ROWS = 128
"""Rows that go through the output head together where every token is scored: their logits are all in memory."""


class Settler:
    """Keeps the books of what was read."""

    def __init__(self, config: ModelConfig, reader: Reader, blocks: BlockManager, *, publishes: bool) -> None:
        """`publishes`: whether other sequences may find the blocks."""
        self._reader, self._blocks, self._publishes = reader, blocks, publishes
        sliding = all(slides(config, layer) for layer in range(config.num_hidden_layers))
        self._window = config.sliding_window if sliding else 0

    def settle(self, parts: list[Slice], hidden: Tensor) -> list[tuple[Slice, int]]:
        """hidden (N, D) of the slices' rows -> the slices of sequences of which nothing is unread, and the row of the
        last token of each, behind which the rows of its draft are."""
        complete: list[tuple[Slice, int]] = []
        first = 0
        for part in parts:
            sequence, end = part.sequence, first + part.count
            if sequence.whole_text_needed:
                self._look(sequence, hidden[first:end])
            sequence.read += part.count
            self.publish(sequence)
            if not sequence.unread:
                complete.append((part, end - 1))
            first += part.rows
        return complete

    def publish(self, sequence: Sequence) -> None:
        """Makes the full blocks findable, and frees those that no layer reads any more."""
        size, table = self._blocks.size, sequence.table
        if self._publishes:
            for i in range(len(sequence.contents), sequence.read // size):
                parent = sequence.contents[-1] if i else sequence.root
                tokens = tuple(sequence.tokens(i * size, (i + 1) * size))
                table[i], content = self._blocks.publish(table[i], parent, tokens)
                sequence.contents.append(content)
        if self._window:
            for i in range((sequence.read + 1 - self._window) // size - 1, -1, -1):
                if table[i] == GONE:
                    break
                self._blocks.release([table[i]])
                table[i] = GONE

    def _look(self, sequence: Sequence, hidden: Tensor) -> None:
        """hidden (T, D) of the next T tokens of a prompt."""
        if sequence.pooled:
            total = hidden.float().sum(0) / len(sequence.prompt)
            sequence.embedding = total if sequence.embedding is None else sequence.embedding + total
        if sequence.scored:
            following = sequence.tokens(sequence.read + 1, sequence.read + 1 + len(hidden))
            unasked = max(0, sequence.unseen - sequence.read)  # what no text holds, and the text's first token
            targets = torch.tensor(following[unasked:], dtype=torch.int64, device=hidden.device)
            rows = hidden[unasked : unasked + len(targets)].split(SCORED_ROWS)
            for some, wanted in zip(rows, targets.split(SCORED_ROWS), strict=True):
                logprobs = self._reader.logits(some, [sequence.adapter] * len(some)).log_softmax(-1)
                sequence.logprobs += logprobs.gather(1, wanted.unsqueeze(1)).squeeze(1).tolist()
