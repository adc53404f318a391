"""Distillation from what a teacher once said: its k likeliest tokens at each position, and all others as one outcome.

    outcomes   t_1 … t_k, and "any other" with p(other) = 1 - Σ p(t_i)
    loss       D between the two distributions over these k + 1 outcomes, for the student's likewise

Merging outcomes never makes a divergence larger (data processing: Cover & Thomas 2006, section 2.8), so the student is
never told of a difference that is not there; between the rare tokens it is told nothing. That is what makes it a
distribution again: the k probabilities scaled up to 1 would teach a certainty that the teacher has not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from vesalius.align.distill.objective import DistillNumbers, distilled, where_targets_are
from vesalius.align.distill.teacher_table import TeacherTable
from vesalius.align.sft.sft import PackedConversations
from vesalius.data.batch import IGNORE, Batch
from vesalius.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class TaughtBatch(Batch):
    """A batch with what the teacher said at each position that has a target; the rest is 0.

    top_ids       (B, T, k) int64: its likeliest tokens
    top_logprobs  (B, T, k + 1) float32: their log-probabilities, and at the end that of any other
    """

    top_ids: Tensor
    top_logprobs: Tensor

    def split(self, rows: int) -> "list[TaughtBatch]":
        parts = zip(super().split(rows), self.top_ids.split(rows), self.top_logprobs.split(rows), strict=True)
        return [TaughtBatch(**_fields(part), top_ids=ids, top_logprobs=logprobs) for part, ids, logprobs in parts]

    def to(self, device: torch.device | str) -> "TaughtBatch":
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("top_ids", "top_logprobs")}
        return TaughtBatch(**_fields(super().to(device)), **moved)


class TaughtConversations:
    """The batches of `conversations`, each with what `table` holds of them."""

    def __init__(self, conversations: PackedConversations, table: TeacherTable) -> None:
        self.conversations, self.table = conversations, table

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TaughtBatch:
        batch, rows = self.conversations.next_with_rows()
        return taught(batch, [number for row in rows for number in row], self.table)

    def state_dict(self) -> dict[str, Any]:
        return self.conversations.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.conversations.load_state_dict(state)


def taught(batch: Batch, numbers: list[int], table: TeacherTable) -> TaughtBatch:
    """The batch, whose rows have the conversations of these numbers one behind the other, with what the table holds."""
    ids, logprobs = table.read(numbers)  # (N, k), (N, k + 1) of all positions that have a target, in order
    wanted = batch.targets != IGNORE
    top_ids = torch.zeros(*wanted.shape, ids.shape[1], dtype=torch.int64)
    top_logprobs = torch.zeros(*wanted.shape, logprobs.shape[1])
    top_ids[wanted], top_logprobs[wanted] = torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(logprobs)
    return TaughtBatch(**_fields(batch), top_ids=top_ids, top_logprobs=top_logprobs)


@dataclass(frozen=True, eq=False)
class DistillTopK:
    """The divergence from a teacher whose likeliest tokens are in the batch; metrics as of `Distill`. The teacher's
    numbers were stored at the temperature of `numbers`."""

    numbers: DistillNumbers = field(default_factory=DistillNumbers)

    def __call__(self, model: nn.Module, batch: TaughtBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, Transformer), "hidden states are read from it"
        wanted, _ = where_targets_are(batch)
        ids = batch.top_ids.flatten(0, 1).index_select(0, wanted)  # (N, k)
        log_p = batch.top_logprobs.flatten(0, 1).index_select(0, wanted)  # (N, k + 1)

        def diverge(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            log_q = (logits / self.numbers.temperature).log_softmax(-1)
            divergence = self.numbers(with_rest(log_q, ids[part]), log_p[part])
            return divergence, logits.argmax(-1) == ids[part, 0]

        return distilled(model, model.model(batch.tokens, batch.positions), batch, self.numbers, diverge)


def with_rest(log_q: Tensor, ids: Tensor) -> Tensor:
    """log q (N, V), ids (N, k), k < V -> (N, k + 1): of these tokens, and of any other.

    >>> log_q = torch.tensor([[0.5, 0.125, 0.25, 0.125]]).log()
    >>> with_rest(log_q, torch.tensor([[0, 2]])).exp()
    tensor([[0.5000, 0.2500, 0.2500]])
    """
    rest = log_q.scatter(1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat((log_q.gather(1, ids), rest), 1)


def _fields(batch: Batch) -> Mapping[str, Any]:
    return {name: getattr(batch, name) for name in ("tokens", "targets", "positions", "source")}
