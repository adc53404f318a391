"""Preference pairs in packed rows: the batch source of every method that compares two answers.

Answers 2k and 2k + 1 of a batch are the chosen and the rejected one of pair k, which a row always has both of, so a
micro-batch keeps pairs together. A pair that is longer than a row, or whose answers are the same tokens, teaches
nothing or half of something: it is dropped, counted and named.

Left out: truncation, for the reason that align/sft gives.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from vesalius.align.answers import AnswerBatch, Item, Layout, item_length, lay_out
from vesalius.align.packing import PackedRows, pack
from vesalius.align.sft import describe_row
from vesalius.align.spans import Spans, SpansWriter
from vesalius.core.errors import UserError
from vesalius.data.preference import Messages, Pair
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs as ids: of pair i the prompt is span 3i, the chosen answer 3i + 1 and the rejected one 3i + 2.

    `dropped` has the names of the pairs that were left out, by the reason.
    """

    spans: Spans
    names: list[str]
    dropped: dict[str, list[str]]
    padding: int

    def __len__(self) -> int:
        return len(self.names)

    def item(self, number: int) -> Item:
        prompt, chosen, rejected = (self.spans[3 * number + part] for part in range(3))
        return Item(prompt[0], (chosen, rejected))

    def lengths(self, *, shared: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The places that each pair takes in a row."""
        parts = self.spans.lengths.reshape(-1, 3).tolist()
        return np.array([item_length(prompt, answers, shared=shared) for prompt, *answers in parts], np.int64)


def encode_pairs(pairs: Iterable[Pair], tokenizer: Tokenizer, layout: Layout) -> EncodedPairs:
    """The pairs that fit into a row of the layout and differ. UserError where none is left."""
    writer, names = SpansWriter(tokenizer.vocab_size), list[str]()
    too_long, same = f"longer than {layout.context} tokens", "chosen equal to rejected"
    dropped: dict[str, list[str]] = {too_long: [], same: []}
    for pair in pairs:
        prompt, (chosen, rejected) = encode_answers(tokenizer, pair.prompt, (pair.chosen, pair.rejected), pair.name)
        if chosen == rejected:
            dropped[same].append(pair.name)
        elif item_length(len(prompt), [len(chosen[0]), len(rejected[0])], shared=layout.shared) > layout.context:
            dropped[too_long].append(pair.name)
        else:
            names.append(pair.name)
            for ids, said in ((prompt, [False] * len(prompt)), chosen, rejected):
                writer.add(ids, said)
    dropped = {reason: found for reason, found in dropped.items() if found}
    if not names:
        raise UserError(_why_nothing_is_left(dropped))
    return EncodedPairs(writer.done(), names, dropped, tokenizer.bos_id or 0)


Marked = tuple[list[int], list[bool]]
"""The ids of an answer, and which of them the assistant says."""


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


class PackedPairs:
    """An endless iterator of `AnswerBatch`es, one epoch after another.

    With `reference` (N, 2), the reference model's log-probabilities of both answers of every pair, batches have those
    of their pairs.
    """

    def __init__(self, pairs: EncodedPairs, layout: Layout, *, seed: int, reference: Tensor | None = None) -> None:
        self.pairs, self.layout, self.reference = pairs, layout, reference
        lengths, fingerprint = pairs.lengths(shared=layout.shared), pairs.spans.fingerprint(f"{layout}|{seed}")
        self._rows = PackedRows(lengths, context=layout.context, seed=seed, fingerprint=fingerprint)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> AnswerBatch:
        source = f"epoch {self._rows.epoch}: "
        rows = [next(self._rows) for _ in range(self.layout.rows)]
        return pair_batch(self.pairs, rows, self.layout, reference=self.reference, source=source)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON can hold it."""
        return self._rows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was taken. UserError where it belongs to other pairs or settings."""
        self._rows.load_state_dict(state)


def pair_batch(
    pairs: EncodedPairs,
    rows: Sequence[Sequence[int]],
    layout: Layout,
    *,
    reference: Tensor | None = None,
    source: str = "",
) -> AnswerBatch:
    """The batch whose rows have the pairs of these numbers."""
    items = [[pairs.item(number) for number in row] for row in rows]
    source += " | ".join(describe_row(list(row), pairs.names) for row in rows)
    batch = lay_out(items, layout, padding=pairs.padding, source=source)
    if reference is None:
        return batch
    return replace(batch, reference=reference[[number for row in rows for number in row]].flatten())


def each_once(pairs: EncodedPairs, numbers: Sequence[int], layout: Layout) -> Iterator[tuple[list[int], AnswerBatch]]:
    """Batches that have the pairs of these numbers once, each with the numbers of its pairs in their order."""
    lengths = pairs.lengths(shared=layout.shared)[list(numbers)]
    rows = pack(numbers, lengths.tolist(), layout.context)
    for start in range(0, len(rows), layout.rows):
        part = rows[start : start + layout.rows]
        yield [number for row in part for number in row], pair_batch(pairs, part, layout)


def _common_length(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _why_nothing_is_left(dropped: dict[str, list[str]]) -> str:
    if not dropped:
        return "there are no preference pairs: the files are empty, or the split left none on this side"
    reasons = ", ".join(f"{len(names)} {reason} (the first: {names[0]})" for reason, names in dropped.items())
    return f"no preference pair can be used: {reasons}; raise the context, or give other pairs"
