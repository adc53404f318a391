"""Answers to prompts laid out in rows, several to a row, and what a model makes of each answer as a whole.

The log-probability of an answer is the sum over its tokens, the end of its turn included; nothing of the prompt, of
padding or of what others say counts. Two answers to one prompt may share it: the prompt is read once, and the answers
stand behind it with the same positions, neither seeing the other (kernels/attention.document_mask). The last token of
the prompt predicts the first one of each answer, so it stands before each of them:

    tokens     p0 p1 | p2 a0 a1 | p2 b0        answers a0 a1 END and b0 END to p0 p1 p2
    positions   0  1 |  2  3  4 |  2  3
    targets     -  - | a0 a1 END| b0 END

With p tokens before it and answers of a and b tokens, a pair takes p - 1 + a + b places instead of 2(p - 1) + a + b.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vesalius.align.logprobs import token_logprobs
from vesalius.align.spans import Ids, Marks
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class AnswerBatch:
    """Rows of answers.

    tokens, targets, positions  (B, T) int64 as in data.Batch
    answer     (B, T) int64: the number of the answer that a position's target belongs to, 0 where there is no target;
               the numbers count on from row to row
    counts     how many answers each row has
    reference  (A,) float32: the reference model's log-probability of each answer, None where nobody computed it yet
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor
    answer: Tensor
    counts: tuple[int, ...]
    reference: Tensor | None = None
    source: str = ""

    @property
    def weight(self) -> int:
        """How many answers there are: what this batch weighs when micro-batches are averaged."""
        return sum(self.counts)

    def split(self, rows: int) -> "list[AnswerBatch]":
        """The same rows in order as batches of at most `rows`; a row's answers stay together."""
        return [self._part(slice(start, start + rows)) for start in range(0, len(self.counts), rows)]

    def _part(self, rows: slice) -> "AnswerBatch":
        first, counts = sum(self.counts[: rows.start]), self.counts[rows]
        return replace(
            self,
            tokens=self.tokens[rows],
            targets=self.targets[rows],
            positions=self.positions[rows],
            answer=(self.answer[rows] - first).clamp(min=0),
            counts=counts,
            reference=None if self.reference is None else self.reference[first : first + sum(counts)],
        )

    def to(self, device: torch.device | str) -> "AnswerBatch":
        """The batch on another device; itself where it is there already."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("tokens", "targets", "positions", "answer")
        }
        reference = None if self.reference is None else self.reference.to(device, non_blocking=True)
        return replace(self, **moved, reference=reference)


@dataclass(frozen=True)
class AnswerLogprobs:
    """Of each answer: the sum of its tokens' log-probabilities (A,), and how many tokens these are (A,)."""

    sums: Tensor
    lengths: Tensor

    @property
    def means(self) -> Tensor:
        """(A,) the log-probability of a token, on average."""
        return self.sums / self.lengths


def answer_logprobs(model: Transformer, batch: AnswerBatch) -> AnswerLogprobs:
    """What the model gives to each answer of the batch, differentiable."""
    logp = token_logprobs(model, batch.tokens, batch.targets, batch.positions)  # (B, T)
    answer, nothing = batch.answer.flatten(), torch.zeros(batch.weight, device=logp.device)
    sums = nothing.index_add(0, answer, logp.flatten())
    return AnswerLogprobs(sums, nothing.index_add(0, answer, (batch.targets != IGNORE).flatten().float()))


def can_share_prompts(config: ModelConfig) -> bool:
    """Whether all that a token learns of others is by attention to positions, so that answers can stand side by side:
    a window and ALiBi count places in the row, and some frequencies depend on the document's length.
    """
    scaled = config.rope_scaling is not None and config.rope_scaling.kind in ("dynamic", "longrope")
    return config.position != "alibi" and not config.sliding_window and not scaled


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How answers are laid out: `rows` of `context` places, and whether answers to one prompt share it."""

    rows: int
    context: int
    shared: bool


@dataclass(frozen=True)
class Item:
    """A prompt (P,) and the answers to it, each with the mark of what the assistant says: what stays in one row."""

    prompt: Ids
    answers: Sequence[tuple[Ids, Marks]]


def item_length(prompt: int, answers: Sequence[int], *, shared: bool) -> int:
    """The places that a prompt and answers of so many tokens take in a row."""
    return (prompt - 1) * (1 if shared else len(answers)) + sum(answers)


@dataclass(frozen=True)
class _Column:
    """What one row is filled with from left to right."""

    tokens: Ids
    targets: Ids
    positions: Ids
    answer: Ids


def lay_out(rows: Sequence[Sequence[Item]], layout: Layout, *, padding: int, source: str) -> AnswerBatch:
    """Rows of items as a batch. Padding is one more document at the end of a row, without targets."""
    laid_out: list[_Column] = []
    first = 0
    for items in rows:
        laid_out.append(_lay_out_row(items, layout, first, padding))
        first += sum(len(item.answers) for item in items)

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(row, name) for row in laid_out]))

    return AnswerBatch(
        tokens=stacked("tokens"),
        targets=stacked("targets"),
        positions=stacked("positions"),
        answer=stacked("answer"),
        counts=tuple(sum(len(item.answers) for item in items) for items in rows),
        source=source,
    )


def _lay_out_row(items: Sequence[Item], layout: Layout, first: int, padding: int) -> _Column:
    row = _Column(*(np.full(layout.context, value, np.int64) for value in (padding, IGNORE, 0, 0)))
    end = 0

    def put(tokens: Ids, targets: Ids | int, position: int, number: int) -> None:
        nonlocal end
        place = slice(end, end := end + len(tokens))
        row.tokens[place], row.targets[place] = tokens, targets
        row.positions[place] = np.arange(position, position + len(tokens))
        row.answer[place] = np.where(row.targets[place] == IGNORE, 0, number)

    for item in items:
        before, last = item.prompt[:-1], item.prompt[-1:]
        for place, (ids, said) in enumerate(item.answers):
            if place == 0 or not layout.shared:
                put(before, IGNORE, 0, 0)
            put(np.concatenate((last, ids[:-1])), np.where(said, ids, IGNORE), len(before), first)
            first += 1
    put(np.full(layout.context - end, padding), IGNORE, 0, 0)
    return row
