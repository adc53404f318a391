"""What a teacher thinks of every token of some conversations, on the disk: written once, as a stream, read in place.

    ids.bin        (N, k) uint16 or uint32: at each position that has a target, the likeliest tokens, likeliest first
    logprobs.bin   (N, k + 1) float32: their log-probabilities, and that of any other token
    index.json     what it was made of, and how much of it is done

Both files only grow, and the index is rewritten when what it counts is on the disk: a killed run cuts them back to that
and goes on. Reading maps them into memory, so a table may be larger than it. 64 tokens of a vocabulary of 49,152 take
388 bytes a position, a five hundredth of all its logits.

A table is used only for what it was made of: the tokenizer, the conversations in their order, k and the temperature.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vesalius.align.distill.objective import where_targets_are
from vesalius.align.rows.encoding import Encoded
from vesalius.align.rows.packing import pack
from vesalius.align.rows.spans import Ids
from vesalius.align.sft.sft import batch_of
from vesalius.core.errors import UserError
from vesalius.core.files import disk_full_is_told, write_json
from vesalius.infer.intake import placement
from vesalius.models.transformer import Transformer
from vesalius.train.head_chunks import chunks

IDS, LOGPROBS, INDEX = "ids.bin", "logprobs.bin", "index.json"

SAVE_EVERY = 10.0
"""Seconds of work that a kill may cost."""

AT_ONCE = 256
"""Conversations that are packed and read before the files grow."""

Values = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """What a table is made of. `teacher` tells the weights; it need not be known to whoever reads the table."""

    tokenizer: str
    vocab_size: int
    conversations: str
    top_k: int
    temperature: float
    teacher: str = ""

    @classmethod
    def of(cls, encoded: Encoded, *, tokenizer: str, vocab_size: int, top_k: int, temperature: float) -> "TableFacts":
        """Those of a table for these conversations. UserError where k leaves no other token."""
        if not 1 <= top_k < vocab_size:
            raise UserError(f"top_k = {top_k}: expected 1 to {vocab_size - 1}, one less than the vocabulary has")
        return cls(
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            conversations=encoded.spans.fingerprint(""),
            top_k=top_k,
            temperature=temperature,
        )

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint16 if self.vocab_size <= 2**16 else np.uint32


class TeacherTable:
    """A finished table for `encoded`, mapped into memory. UserError where it is none, unfinished, or of other facts."""

    def __init__(self, directory: Path, encoded: Encoded, facts: TableFacts) -> None:
        index = _read_index(directory)
        if index is None:
            raise UserError(f"{directory} holds no teacher's table: there is no {INDEX} in it")
        for name, wanted in asdict(facts).items():
            if (there := index["facts"].get(name)) != wanted and name != "teacher":
                raise UserError(
                    f"the teacher's table in {directory} was made for {name} {there}, got {wanted}: use the same "
                    "tokenizer, conversations and settings, or make the table anew"
                )
        if index["conversations"] != len(encoded):
            raise UserError(
                f"the teacher's table in {directory} has {index['conversations']} of {len(encoded)} conversations: "
                "resume the run that makes it"
            )
        self._starts = _starts(encoded)
        rows = int(self._starts[-1])
        self._ids = np.memmap(directory / IDS, facts.dtype, "r", shape=(rows, facts.top_k))
        self._logprobs = np.memmap(directory / LOGPROBS, np.float32, "r", shape=(rows, facts.top_k + 1))

    def read(self, numbers: list[int]) -> tuple[Values, Values]:
        """ids (N, k) and log-probabilities (N, k + 1) of the targets of these conversations, one behind the other."""
        places = [slice(self._starts[number], self._starts[number + 1]) for number in numbers]
        ids, logprobs = (np.concatenate([values[p] for p in places]) for values in (self._ids, self._logprobs))
        return ids, logprobs


def write_table(
    teacher: Transformer,
    encoded: Encoded,
    facts: TableFacts,
    directory: Path,
    *,
    rows: int,
    context: int,
    dtype: torch.dtype | None,
    on_progress: Callable[[int], None],
) -> None:
    """Writes what `teacher`, in evaluation mode, thinks of the conversations, as far as it is not there yet.

    It reads `rows` rows of `context` tokens at a time, in autocast's `dtype`, None for none. `on_progress` is told how
    many conversations are done. What stands in the directory and is of other facts is overwritten.
    """
    directory.mkdir(parents=True, exist_ok=True)
    index, starts = _read_index(directory), _starts(encoded)
    done = index["conversations"] if index is not None and index["facts"] == asdict(facts) else 0
    with disk_full_is_told(directory), _Files(directory, facts, int(starts[done]), done) as files:
        while files.conversations < len(encoded):
            numbers = range(files.conversations, min(files.conversations + AT_ONCE, len(encoded)))
            files.append(*_think(teacher, encoded, numbers, facts, rows=rows, context=context, dtype=dtype))
            files.grown(numbers.stop, last=numbers.stop == len(encoded))
            on_progress(numbers.stop)


class _Files:
    """The two files at the length that the index knows, and the index when they have grown."""

    def __init__(self, directory: Path, facts: TableFacts, rows: int, conversations: int) -> None:
        self.directory, self.facts, self.conversations = directory, facts, conversations
        self._saved = time.monotonic()
        widths = {IDS: facts.top_k * facts.dtype().itemsize, LOGPROBS: (facts.top_k + 1) * 4}
        self._files = [(directory / name).open("r+b" if rows else "wb") for name in widths]
        for file, width in zip(self._files, widths.values(), strict=True):
            file.truncate(rows * width)
            file.seek(0, os.SEEK_END)

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def append(self, ids: Values, logprobs: Values) -> None:
        for file, values in zip(self._files, (ids.astype(self.facts.dtype), logprobs), strict=True):
            file.write(values.tobytes())

    def grown(self, conversations: int, *, last: bool) -> None:
        """So many conversations are written; the index says so from time to time, and at the last."""
        self.conversations = conversations
        if not last and time.monotonic() - self._saved < SAVE_EVERY:
            return
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        write_json(self.directory / INDEX, {"facts": asdict(self.facts), "conversations": conversations})
        self._saved = time.monotonic()


@torch.inference_mode()
def _think(
    teacher: Transformer,
    encoded: Encoded,
    numbers: range,
    facts: TableFacts,
    *,
    rows: int,
    context: int,
    dtype: torch.dtype | None,
) -> tuple[Values, Values]:
    """ids (N, k) and log-probabilities (N, k + 1) of the targets of these conversations, in their order."""
    device = placement(teacher)[0]
    packed = pack(numbers, encoded.spans.lengths[numbers.start : numbers.stop].tolist(), context)
    found: dict[int, tuple[Values, Values]] = {}
    starts = _starts(encoded)
    for first in range(0, len(packed), rows):
        part = packed[first : first + rows]
        batch = batch_of(encoded, part, context).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            hidden = teacher.model(batch.tokens, batch.positions).flatten(0, 1)  # (B · T, D)
            values = _top(teacher, hidden.index_select(0, where_targets_are(batch)[0]), facts)
        order = [number for row in part for number in row]
        ends = np.cumsum([starts[number + 1] - starts[number] for number in order])[:-1]
        found |= dict(
            zip(order, zip(*(np.split(value.cpu().numpy(), ends) for value in values), strict=True), strict=True)
        )
    ids, logprobs = (np.concatenate([found[number][which] for number in numbers]) for which in (0, 1))
    return ids, logprobs


def _top(teacher: Transformer, hidden: Tensor, facts: TableFacts) -> tuple[Tensor, Tensor]:
    """hidden (N, D) -> (N, k) ids, likeliest first, and (N, k + 1) log-probabilities."""
    ids, logprobs = [], []
    for part in chunks(len(hidden), facts.vocab_size):
        log_p = (teacher.logits(hidden[part]) / facts.temperature).log_softmax(-1)
        top = log_p.topk(facts.top_k)
        rest = log_p.scatter_(1, top.indices, -torch.inf).logsumexp(-1, keepdim=True)
        ids.append(top.indices)
        logprobs.append(torch.cat((top.values, rest), 1))
    return torch.cat(ids), torch.cat(logprobs)


def _starts(encoded: Encoded) -> Ids:
    """(N + 1,): the targets of conversation i are at starts[i]:starts[i + 1]. The first token of one is no target."""
    spans = encoded.spans
    said = np.concatenate(([0], np.cumsum(spans.marks)))  # tokens that the assistant says before each place
    firsts = spans.marks[spans.starts[:-1]]
    counts = said[spans.starts[1:]] - said[spans.starts[:-1]] - firsts
    return np.concatenate(([0], np.cumsum(counts)))


def _read_index(directory: Path) -> dict[str, Any] | None:
    path = directory / INDEX
    return json.loads(path.read_text("utf-8")) if path.exists() else None
