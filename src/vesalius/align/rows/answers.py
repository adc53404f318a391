"""Rows of answers, several to a row, and what a model makes of each answer as a whole.

The log-probability of an answer is the sum over its tokens, the end of its turn included; nothing of the prompt, of
padding or of what others say counts.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vesalius.align.logprobs import token_logprobs
from vesalius.data.batch import IGNORE
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
