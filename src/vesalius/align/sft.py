"""Supervised fine-tuning: conversations packed into rows, with a target only where the assistant speaks.

There is no objective here. Instruction tuning is next-token prediction without a loss on what others say (Touvron et
al. 2023, arXiv:2307.09288, section 3.1), and that is in the batch: IGNORE at every position whose next token is not the
assistant's, whose end of turn is. So the loop trains it with the same NextToken as pretraining (contract 3), and this
file is only a batch source.

Rows are packed (packing.py), and no conversation is cut or sees another, because positions begin again at each and
attention stops where they do.

Left out: truncation. Half an answer teaches to stop in the middle; what is longer than the context is dropped and told.
"""

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from vesalius.align.packing import PackedRows
from vesalius.align.spans import Spans, SpansWriter
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.data.conversation import Conversation
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer


class PackedConversations:
    """An endless iterator of `Batch`es of `batch_rows` rows of `context` tokens, one epoch after another.

    `dropped` names the conversations that are longer than the context. UserError where none is left.
    """

    def __init__(
        self, conversations: Iterable[Conversation], tokenizer: Tokenizer, *, batch_rows: int, context: int, seed: int
    ) -> None:
        self.batch_rows, self.context = batch_rows, context
        self._data, self._names, self.dropped = _encode(conversations, tokenizer, context)
        self._padding = tokenizer.bos_id or 0  # nothing reads it and it reads nothing: any id would do
        fingerprint = self._data.fingerprint(f"{context}|{seed}")
        self._rows = PackedRows(self._data.lengths, context=context, seed=seed, fingerprint=fingerprint)

    def __len__(self) -> int:
        """How many conversations an epoch has."""
        return len(self._names)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        source = f"epoch {self._rows.epoch}: "
        rows = [next(self._rows) for _ in range(self.batch_rows)]
        laid_out = (_lay_out(row, self._data, self.context, self._padding) for row in rows)
        tokens, targets, positions = (torch.stack(column) for column in zip(*laid_out, strict=True))
        source += " | ".join(describe_row(row, self._names) for row in rows)
        return Batch(tokens=tokens, targets=targets, positions=positions, source=source)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON can hold it."""
        return self._rows.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was taken. UserError where it belongs to other conversations or settings."""
        self._rows.load_state_dict(state)


def describe_row(row: list[int], names: list[str]) -> str:
    """The first item of a row and how many more it has."""
    return names[row[0]] + (f" and {len(row) - 1} more" if len(row) > 1 else "")


def _encode(
    conversations: Iterable[Conversation], tokenizer: Tokenizer, context: int
) -> tuple[Spans, list[str], list[str]]:
    """The conversations that fit, their names, and the names of those that do not."""
    writer = SpansWriter(tokenizer.vocab_size)
    names: list[str] = []
    dropped: list[str] = []
    for conversation in conversations:
        try:
            chat = encode_chat(tokenizer, conversation.messages)
        except UserError as error:
            raise UserError(f"{conversation.name}: {error}") from error
        if len(chat.ids) > context:
            dropped.append(conversation.name)
            continue
        writer.add(chat.ids, chat.assistant_mask)
        names.append(conversation.name)
    if not names:
        raise UserError(_why_nothing_is_left(dropped, context))
    return writer.done(), names, dropped


def _why_nothing_is_left(dropped: list[str], context: int) -> str:
    if not dropped:
        return "there are no conversations to train on: the files are empty, or the split left none on this side"
    return (
        f"all {len(dropped)} conversations are longer than the context of {context} tokens (the first: {dropped[0]}): "
        "raise the context or give shorter conversations"
    )


def _lay_out(row: list[int], data: Spans, context: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets and positions, each (T,). Padding is one more document at the end, without targets."""
    tokens = np.full(context, padding, np.int64)
    targets = np.full(context, IGNORE, np.int64)
    positions = np.zeros(context, np.int64)
    start = 0
    for number in row:
        ids, mask = data[number]
        end = start + len(ids)
        tokens[start:end] = ids
        targets[start : end - 1] = np.where(mask[1:], ids[1:], IGNORE)
        positions[start:end] = np.arange(len(ids))
        start = end
    positions[start:] = np.arange(context - start)
    return torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(positions)
