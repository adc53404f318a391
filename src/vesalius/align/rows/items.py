"""Prompts with their answers as ids, and endless batches of them: what pairs, ratings and comparisons have in common.

An item is a prompt and a fixed number of answers to it. What can't be used is dropped, counted and named by the reason.
Left out: truncation, for the reason that align/sft/sft gives.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from vesalius.align.rows.answer_rows import Item, Layout, item_length, lay_out
from vesalius.align.rows.answers import AnswerBatch
from vesalius.align.rows.packing import PackedBatches, PackedRows, pack
from vesalius.align.rows.spans import Ids, Spans, SpansWriter
from vesalius.align.rows.system_messages import with_their_system
from vesalius.align.sft.sft import describe_row
from vesalius.core.errors import UserError
from vesalius.data.preference import Messages
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

Marked = tuple[list[int], list[bool]]
"""The ids of an answer, and which of them the assistant says."""

Encoded = tuple[str, list[int], Sequence[Marked]]
"""A name, the ids of a prompt, and the answers to it."""

Asked = tuple[str, Messages, Sequence[Messages]]
"""A name that helps a person to find it, a prompt, and the answers to it."""


@dataclass(frozen=True)
class Items:
    """Prompts with `answers` answers each: of item i the prompt is span i · (answers + 1), its answers the next ones.

    `dropped` has the names of what was left out, by the reason; `kept` the places of the others in what was read.
    """

    spans: Spans
    answers: int
    names: list[str]
    kept: list[int]
    dropped: dict[str, list[str]]
    padding: int

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Item:
        first = number * (self.answers + 1)
        prompt, *answers = (self.spans[first + part] for part in range(self.answers + 1))
        return Item(prompt[0], answers)

    @property
    def answer_lengths(self) -> Ids:
        """(N, answers) tokens of each answer."""
        return self.spans.lengths.reshape(len(self), -1)[:, 1:]

    def lengths(self, layout: Layout) -> Ids:
        """The places that each item takes in a row."""
        parts = self.spans.lengths.reshape(-1, self.answers + 1).tolist()
        return np.array([item_length(prompt, answers, layout) for prompt, *answers in parts], np.int64)


def encode_items(asked: Iterable[Asked], tokenizer: Tokenizer, layout: Layout, answers: int) -> Items:
    """The items that fit into a row of the layout and whose answers differ. UserError where none is left."""
    checked = with_their_system(asked, tokenizer, lambda one: one[:2])
    encoded = ((name, *encode_answers(tokenizer, before, answered, name)) for name, before, answered in checked)
    return gather(encoded, tokenizer, layout, answers)


def gather(encoded: Iterable[Encoded], tokenizer: Tokenizer, layout: Layout, answers: int) -> Items:
    """The same of what is encoded already."""
    writer, names, kept = SpansWriter(tokenizer.vocab_size), list[str](), list[int]()
    too_long, same = f"longer than {layout.context} tokens", "chosen equal to rejected"
    dropped: dict[str, list[str]] = {too_long: [], same: []}
    for place, (name, prompt, found) in enumerate(encoded):
        assert len(found) == answers, "all items are of one kind"
        if any(one == other for (one, _), (other, _) in pairwise(found)):
            dropped[same].append(name)
        elif item_length(len(prompt), [len(ids) for ids, _ in found], layout) > layout.context:
            dropped[too_long].append(name)
        else:
            names.append(name)
            kept.append(place)
            for ids, said in ((prompt, [False] * len(prompt)), *found):
                writer.add(ids, said)
    dropped = {reason: found for reason, found in dropped.items() if found}
    if not names:
        raise UserError(_why_nothing_is_left(dropped))
    return Items(writer.done(), answers, names, kept, dropped, tokenizer.bos_id or 0)


def encode_answers(
    tokenizer: Tokenizer, prompt: Messages, answers: Sequence[Messages], name: str
) -> tuple[list[int], list[Marked]]:
    """The ids of a prompt and of each answer behind it, up to the last token that the assistant says.

    Where a template writes the prompt differently once it is answered, an answer begins where the ids part.
    """
    try:
        before = encode_chat(tokenizer, prompt, add_generation_prompt=True).ids
        chats = [encode_chat(tokenizer, prompt + answer) for answer in answers]
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    start = min(_common_length(before, chat.ids) for chat in chats)
    if not start:
        raise UserError(
            f"{name}: the chat template writes nothing before an answer, so nothing predicts its first token"
        )
    found: list[Marked] = []
    for chat in chats:
        end = max((place for place, said in enumerate(chat.assistant_mask, 1) if said), default=0)
        if end <= start:
            raise UserError(f"{name}: an answer has no token of its own: look at the chat template")
        found.append((chat.ids[start:end], chat.assistant_mask[start:end]))
    return before[:start], found


class PackedItems(PackedBatches[AnswerBatch]):
    """An endless iterator of `AnswerBatch`es, one epoch after another.

    With `reference` (N, answers), the reference model's log-probabilities of every item's answers, batches have those
    of their items.
    """

    def __init__(self, items: Items, layout: Layout, *, seed: int, reference: Tensor | None = None) -> None:
        self.items, self.layout, self.reference = items, layout, reference
        fingerprint = items.spans.fingerprint(f"{layout}|{seed}")
        rows = PackedRows(items.lengths(layout), context=layout.context, seed=seed, fingerprint=fingerprint)
        super().__init__(rows, layout.rows)

    def batch(self, rows: list[list[int]], source: str) -> AnswerBatch:
        return batch_of(self.items, rows, self.layout, source=source, reference=self.reference)


def batch_of(
    items: Items,
    rows: Sequence[Sequence[int]],
    layout: Layout,
    *,
    source: str = "",
    reference: Tensor | None = None,
) -> AnswerBatch:
    """The batch whose rows have the items of these numbers, with what `reference` (N, answers) has of them."""
    source += " | ".join(describe_row(list(row), items.names) for row in rows)
    batch = lay_out([[items[number] for number in row] for row in rows], layout, padding=items.padding, source=source)
    if reference is None:
        return batch
    return replace(batch, reference=reference[[number for row in rows for number in row]].flatten())


def each_once(items: Items, numbers: Sequence[int], layout: Layout) -> Iterator[list[list[int]]]:
    """The rows of batches that have the items of these numbers once."""
    rows = pack(numbers, items.lengths(layout)[list(numbers)].tolist(), layout.context)
    return (rows[start : start + layout.rows] for start in range(0, len(rows), layout.rows))


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _why_nothing_is_left(dropped: dict[str, list[str]]) -> str:
    if not dropped:
        return "there are no judged answers: the files are empty, or the split left none on this side"
    reasons = ", ".join(f"{len(names)} {reason} (the first: {names[0]})" for reason, names in dropped.items())
    return f"no judged answer can be used: {reasons}; raise the context, or give others"
