"""Judged answers in packed rows: the batch source of reward models and process reward models.

Rows are packed as everywhere (packing.py). Where the model allows it, the two answers of a pair stand behind one copy
of their prompt with the same positions, neither seeing the other. Unlike in answers.py every answer's last token is in
the row: there its reward is read.

What is longer than a row, and a pair whose answers are the same tokens, is dropped, counted and named. Left out:
truncation: half an answer is not the answer that was judged.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from vesalius.align.answer_rows import Layout
from vesalius.align.packing import PackedRows, pack
from vesalius.align.scored_batch import ScoredBatch
from vesalius.align.scored_items import Item
from vesalius.align.sft import describe_row
from vesalius.align.spans import Ids, Spans, SpansWriter
from vesalius.core.errors import UserError
from vesalius.tokenizers.tokenizer import Tokenizer

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScoredItems:
    """Items of `answers` answers each: of item i the prompt is span (answers + 1) · i, and its answers follow.

    `numbers` has one for each token of the spans, NaN where none is wanted; `dropped` the names of the items that were
    left out, by the reason.
    """

    spans: Spans
    numbers: Numbers
    answers: int
    names: list[str]
    dropped: dict[str, list[str]]
    padding: int

    def __len__(self) -> int:
        return len(self.names)

    def parts(self, item: int) -> list[tuple[Ids, Numbers]]:
        """The ids and numbers of an item's prompt and of each of its answers."""
        first = (self.answers + 1) * item
        places = [slice(*self.spans.starts[span : span + 2]) for span in range(first, first + self.answers + 1)]
        return [(self.spans.ids[place].astype(np.int64), self.numbers[place]) for place in places]

    @property
    def answer_lengths(self) -> Ids:
        """(N, answers) tokens of each answer."""
        return self.spans.lengths.reshape(len(self), -1)[:, 1:]

    def lengths(self, *, shared: bool) -> Ids:
        """(N,) the places that each item takes in a row."""
        prompts = self.spans.lengths.reshape(len(self), -1)[:, 0]
        return prompts * (1 if shared else self.answers) + self.answer_lengths.sum(1)

    def fingerprint(self, settings: str) -> str:
        """Tells these items, used in this way, apart from all others."""
        numbers = hashlib.blake2b(self.numbers.tobytes(), digest_size=8).hexdigest()
        return self.spans.fingerprint(f"{settings}|{self.answers}|{numbers}")


def collect(items: Iterable[Item], tokenizer: Tokenizer, layout: Layout, *, answers: int) -> ScoredItems:
    """The items that fit into a row of the layout, each of so many answers. UserError where none is left."""
    writer, numbers, names = SpansWriter(tokenizer.vocab_size), array("f"), list[str]()
    too_long, same = f"longer than {layout.context} tokens", "chosen equal to rejected"
    dropped: dict[str, list[str]] = {too_long: [], same: []}
    for item in items:
        assert len(item.answers) == answers, "all items are of one kind"
        length = len(item.prompt) * (1 if layout.shared else answers) + sum(len(ids) for ids, _ in item.answers)
        if answers > 1 and all(ids == item.answers[0][0] for ids, _ in item.answers[1:]):
            dropped[same].append(item.name)
        elif length > layout.context:
            dropped[too_long].append(item.name)
        else:
            names.append(item.name)
            for ids, wanted in ((item.prompt, {}), *item.answers):
                writer.add(ids, [place in wanted for place in range(len(ids))])
                numbers.extend(wanted.get(place, np.nan) for place in range(len(ids)))
    dropped = {reason: found for reason, found in dropped.items() if found}
    if not names:
        raise UserError(_why_nothing_is_left(dropped))
    return ScoredItems(
        writer.done(), np.frombuffer(numbers, np.float32), answers, names, dropped, tokenizer.bos_id or 0
    )


class PackedScores:
    """An endless iterator of `ScoredBatch`es, one epoch after another."""

    def __init__(self, items: ScoredItems, layout: Layout, *, seed: int) -> None:
        self.items, self.layout = items, layout
        self._rows = PackedRows(
            items.lengths(shared=layout.shared),
            context=layout.context,
            seed=seed,
            fingerprint=items.fingerprint(f"{layout}|{seed}"),
        )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ScoredBatch:
        source = f"epoch {self._rows.epoch}: "
        rows = [next(self._rows) for _ in range(self.layout.rows)]
        return scored_batch(self.items, rows, self.layout, source=source)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON can hold it."""
        return self._rows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was taken. UserError where it belongs to other items or settings."""
        self._rows.load_state_dict(state)


def each_once(items: ScoredItems, layout: Layout) -> Iterator[tuple[list[int], ScoredBatch]]:
    """Batches that have every item once, each with the numbers of its items in their order."""
    rows = pack(range(len(items)), items.lengths(shared=layout.shared).tolist(), layout.context)
    for start in range(0, len(rows), layout.rows):
        part = rows[start : start + layout.rows]
        yield [number for row in part for number in row], scored_batch(items, part, layout)


def scored_batch(items: ScoredItems, rows: Sequence[Sequence[int]], layout: Layout, *, source: str = "") -> ScoredBatch:
    """The batch whose rows have the items of these numbers. Padding is one more document at the end of a row."""
    shape = len(rows), layout.context
    tokens, positions = np.full(shape, items.padding, np.int64), np.zeros(shape, np.int64)
    targets = np.full(shape, np.nan, np.float32)
    for number, row in enumerate(rows):
        end = 0
        for item in row:
            prompt, *answers = items.parts(item)
            for place, answer in enumerate(answers):
                for ids, wanted in (answer,) if place and layout.shared else (prompt, answer):
                    begin, end = end, end + len(ids)
                    tokens[number, begin:end], targets[number, begin:end] = ids, wanted
                    first = 0 if ids is prompt[0] else len(prompt[0])
                    positions[number, begin:end] = np.arange(first, first + len(ids))
        positions[number, end:] = np.arange(layout.context - end)
    return ScoredBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        targets=torch.from_numpy(targets),
        source=source + " | ".join(describe_row(list(row), items.names) for row in rows),
    )


def _why_nothing_is_left(dropped: dict[str, list[str]]) -> str:
    if not dropped:
        return "there are no judged answers: the files are empty, or the split left none on this side"
    reasons = ", ".join(f"{len(names)} {reason} (the first: {names[0]})" for reason, names in dropped.items())
    return f"no judged answer can be used: {reasons}; raise the context, or give other answers"
