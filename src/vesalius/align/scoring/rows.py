"""Judged answers in packed rows: the batch source of reward models and process reward models.

Items are packed as pairs are (items.py), with two differences: every answer's last token is in the row, since there its
reward is read, and what is marked in an answer is where a number is wanted. Where the model allows it, the two answers
of a pair stand behind one copy of their prompt with the same positions, neither seeing the other.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vesalius.align.rows import items as packed
from vesalius.align.rows.answer_rows import Layout
from vesalius.align.rows.items import Encoded, Items, gather
from vesalius.align.rows.packing import PackedBatches, PackedRows
from vesalius.align.rows.spans import Ids
from vesalius.align.scoring.batch import ScoredBatch
from vesalius.align.scoring.items import Item
from vesalius.align.sft.sft import describe_row
from vesalius.tokenizers.tokenizer import Tokenizer

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScoredItems:
    """Items, and the numbers wanted at their marked tokens, in order; those of item i are `starts[i]:starts[i + 1]`."""

    items: Items
    numbers: Numbers
    starts: Ids

    def __len__(self) -> int:
        return len(self.items)

    def wanted(self, item: int) -> Numbers:
        """The numbers of one item."""
        return self.numbers[self.starts[item] : self.starts[item + 1]]

    def fingerprint(self, settings: str) -> str:
        """Tells these items, used in this way, apart from all others."""
        numbers = hashlib.blake2b(self.numbers.tobytes(), digest_size=8).hexdigest()
        return self.items.spans.fingerprint(f"{settings}|{numbers}")


def collect(items: Iterable[Item], tokenizer: Tokenizer, layout: Layout, *, answers: int) -> ScoredItems:
    """The items that can be used, each of so many answers. UserError where none is left."""
    wanted: list[list[float]] = []

    def encoded() -> Iterator[Encoded]:
        for item in items:
            wanted.append([number for _, numbers in item.answers for _, number in sorted(numbers.items())])
            marked = [(ids, [place in numbers for place in range(len(ids))]) for ids, numbers in item.answers]
            yield item.name, item.prompt, marked

    found = gather(encoded(), tokenizer, layout, answers)
    kept = [wanted[place] for place in found.kept]
    numbers = np.array([number for some in kept for number in some], np.float32)
    return ScoredItems(found, numbers, np.cumsum([0, *map(len, kept)]))


class PackedScores(PackedBatches[ScoredBatch]):
    """An endless iterator of `ScoredBatch`es, one epoch after another."""

    def __init__(self, items: ScoredItems, layout: Layout, *, seed: int) -> None:
        self.items, self.layout = items, layout
        lengths, fingerprint = items.items.lengths(layout), items.fingerprint(f"{layout}|{seed}")
        rows = PackedRows(lengths, context=layout.context, seed=seed, fingerprint=fingerprint)
        super().__init__(rows, layout.rows)

    def batch(self, rows: list[list[int]], source: str) -> ScoredBatch:
        return scored_batch(self.items, rows, self.layout, source=source)


def each_once(items: ScoredItems, layout: Layout) -> Iterator[tuple[list[int], ScoredBatch]]:
    """Batches that have every item once, each with the numbers of its items in their order."""
    for rows in packed.each_once(items.items, range(len(items)), layout):
        yield [number for row in rows for number in row], scored_batch(items, rows, layout)


def scored_batch(items: ScoredItems, rows: Sequence[Sequence[int]], layout: Layout, *, source: str = "") -> ScoredBatch:
    """The batch whose rows have the items of these numbers. Padding is one more document at the end of a row."""
    shape = len(rows), layout.context
    tokens, positions = np.full(shape, items.items.padding, np.int64), np.zeros(shape, np.int64)
    marks = np.zeros(shape, np.bool_)
    for number, row in enumerate(rows):
        end = 0
        for prompt, answers in ((item.prompt, item.answers) for item in map(items.items.__getitem__, row)):
            for place, (ids, marked) in enumerate(answers):
                first = len(prompt) if place and layout.shared else 0
                begin, end = end, end + len(prompt) + len(ids) - first
                tokens[number, begin:end] = np.concatenate((prompt, ids))[first:]
                positions[number, begin:end] = np.arange(first, len(prompt) + len(ids))
                marks[number, end - len(ids) : end] = marked
        positions[number, end:] = np.arange(layout.context - end)
    targets = np.full(shape, np.nan, np.float32)
    targets[marks] = np.concatenate([items.wanted(number) for row in rows for number in row])
    return ScoredBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(targets),
        source=source + " | ".join(describe_row(list(row), items.items.names) for row in rows),
    )
