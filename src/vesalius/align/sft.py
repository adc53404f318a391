"""Supervised fine-tuning: conversations packed into rows, with a target only where the assistant speaks.

There is no objective here. Instruction tuning is next-token prediction without a loss on what others say (Touvron et
al. 2023, arXiv:2307.09288, section 3.1), and that is in the batch: IGNORE at every position whose next token is not the
assistant's, whose end of turn is. So the loop trains it with the same NextToken as pretraining (contract 3), and this
file is only a batch source.

Rows are filled by best-fit decreasing (Johnson 1973) within buffers of shuffled conversations: nearly no padding, and
no conversation is cut or sees another, because positions begin again at each and attention stops where they do. The
order depends on seed and epoch alone, so three numbers say where the source is.

Left out: truncation. Half an answer teaches to stop in the middle; what is longer than the context is dropped and told.
"""

import bisect
import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.data.conversation import Conversation
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

BUFFER = 2048
"""Conversations that are packed together: more leave less padding, fewer cost less at the start of each buffer."""


class PackedConversations:
    """An endless iterator of `Batch`es of `batch_rows` rows of `context` tokens, one epoch after another.

    `dropped` names the conversations that are longer than the context. UserError where none is left.
    """

    def __init__(
        self, conversations: Iterable[Conversation], tokenizer: Tokenizer, *, batch_rows: int, context: int, seed: int
    ) -> None:
        self.batch_rows, self.context, self.seed = batch_rows, context, seed
        self._data, self.dropped = _encode(conversations, tokenizer, context)
        self._padding = tokenizer.bos_id or 0  # nothing reads it and it reads nothing: any id would do
        self._fingerprint = _fingerprint(self._data, f"{context}|{seed}")
        self._epoch = self._buffer = self._row = 0
        self._rows = self._pack_buffer()

    def __len__(self) -> int:
        """How many conversations an epoch has."""
        return len(self._data.names)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        source = f"epoch {self._epoch}: "
        rows = [self._next_row() for _ in range(self.batch_rows)]
        laid_out = (_lay_out(row, self._data, self.context, self._padding) for row in rows)
        tokens, targets, positions = (torch.stack(column) for column in zip(*laid_out, strict=True))
        source += " | ".join(_describe(row, self._data) for row in rows)
        return Batch(tokens=tokens, targets=targets, positions=positions, source=source)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON can hold it."""
        return {"epoch": self._epoch, "buffer": self._buffer, "row": self._row, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on exactly where the state was taken. UserError where it belongs to other conversations or settings."""
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                f"the checkpoint's place in the conversations is for data {state['fingerprint']}, got "
                f"{self._fingerprint}: resume with the same files, tokenizer, context and seed, or start a new run"
            )
        self._epoch, self._buffer, self._row = state["epoch"], state["buffer"], state["row"]
        self._rows = self._pack_buffer()

    def _next_row(self) -> list[int]:
        row = self._rows[self._row]
        self._row += 1
        if self._row == len(self._rows):
            self._buffer, self._row = self._buffer + 1, 0
            if self._buffer * BUFFER >= len(self):
                self._epoch, self._buffer = self._epoch + 1, 0
            self._rows = self._pack_buffer()
        return row

    def _pack_buffer(self) -> list[list[int]]:
        """The rows of the present buffer; they depend on the data, the seed, the epoch and the buffer's number only."""
        order = np.random.default_rng((self.seed, self._epoch)).permutation(len(self))
        chosen = order[self._buffer * BUFFER : (self._buffer + 1) * BUFFER]
        rows = pack(chosen.tolist(), self._data.lengths[chosen].tolist(), self.context)
        shuffled = np.random.default_rng((self.seed, self._epoch, self._buffer)).permutation(len(rows))
        return [rows[number] for number in shuffled]  # packing puts the long conversations first


def pack(numbers: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: longest first, each into the row where it leaves the least room, else into a new row.

    >>> pack([0, 1, 2, 3], [5, 2, 4, 3], capacity=7)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens that still fit, row), sorted
    for number, length in sorted(zip(numbers, lengths, strict=True), key=lambda pair: -pair[1]):
        fitting = bisect.bisect_left(room, (length, 0))
        if fitting < len(room):
            left, row = room.pop(fitting)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(number)
        bisect.insort(room, (left - length, row))
    return rows


@dataclass(frozen=True)
class _Encoded:
    """All conversations end to end; conversation i is at `starts[i]:starts[i + 1]`.

    Lists of Python integers would take ten times the memory.
    """

    ids: npt.NDArray[np.unsignedinteger[Any]]
    mask: npt.NDArray[np.bool_]
    starts: npt.NDArray[np.int64]
    names: list[str]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.diff(self.starts)


def _encode(conversations: Iterable[Conversation], tokenizer: Tokenizer, context: int) -> tuple[_Encoded, list[str]]:
    """The conversations that fit, and the names of those that do not."""
    ids, mask, starts = array("H" if tokenizer.vocab_size <= 2**16 else "I"), bytearray(), [0]
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
        ids.extend(chat.ids)
        mask.extend(chat.assistant_mask)
        starts.append(len(ids))
        names.append(conversation.name)
    if not names:
        raise UserError(_why_nothing_is_left(dropped, context))
    flat_ids, flat_mask = np.frombuffer(ids, np.dtype(ids.typecode)), np.frombuffer(mask, np.bool_)
    return _Encoded(flat_ids, flat_mask, np.array(starts), names), dropped


def _why_nothing_is_left(dropped: list[str], context: int) -> str:
    if not dropped:
        return "there are no conversations to train on: the files are empty, or the split left none on this side"
    return (
        f"all {len(dropped)} conversations are longer than the context of {context} tokens (the first: {dropped[0]}): "
        "raise the context or give shorter conversations"
    )


def _lay_out(row: list[int], data: _Encoded, context: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, targets and positions, each (T,). Padding is one more document at the end, without targets."""
    tokens = np.full(context, padding, np.int64)
    targets = np.full(context, IGNORE, np.int64)
    positions = np.zeros(context, np.int64)
    start = 0
    for number in row:
        place = slice(data.starts[number], data.starts[number + 1])
        ids, mask = data.ids[place].astype(np.int64), data.mask[place]
        end = start + len(ids)
        tokens[start:end] = ids
        targets[start : end - 1] = np.where(mask[1:], ids[1:], IGNORE)
        positions[start:end] = np.arange(len(ids))
        start = end
    positions[start:] = np.arange(context - start)
    return torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(positions)


def _describe(row: list[int], data: _Encoded) -> str:
    return data.names[row[0]] + (f" and {len(row) - 1} more" if len(row) > 1 else "")


def _fingerprint(data: _Encoded, settings: str) -> str:
    digest = hashlib.blake2b(settings.encode(), digest_size=8)
    for part in (data.ids, data.mask, data.starts):
        digest.update(part.tobytes())
    return digest.hexdigest()
