"""What a policy-gradient step eats: sampled answers with what each of their tokens is worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from vesalius.data.batch import IGNORE


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """Episodes, one a row, padded at the end. Numbers are 0 where there is no target.

    tokens       (B, T) int64
    targets      (B, T) int64: what the policy wrote after each position; IGNORE at prompts, tool texts and padding
    sampled      (B, T) log-probabilities by the engine that drew them
    advantages   (B, T)
    old          (B, T) log-probabilities by the trainer before the first update on these episodes; None where this is
                 the only update, so that they are what the objective computes anyway
    reference    (B, T) those of the model that the policy began as; None where nobody asks how far it went
    values, returns  (B, T) of the critic before the first update, and what came; None without a critic
    mean_length  targets a row, over all rows of the update: part of the batch keeps that of the whole
    kl_weight    of the KL to the reference in the loss
    """

    tokens: Tensor
    targets: Tensor
    sampled: Tensor
    advantages: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    mean_length: float = 1.0
    kl_weight: float = 0.0
    source: str = ""

    @property
    def weight(self) -> int:
        """Rows, which losses are means over; 0 where none of them has a target."""
        return len(self.tokens) if bool((self.targets != IGNORE).any()) else 0

    def split(self, rows: int) -> Sequence["PolicyBatch"]:
        """The same rows in order as batches of at most `rows`."""
        return [self.rows(slice(start, start + rows)) for start in range(0, len(self.tokens), rows)]

    def rows(self, chosen: slice | Tensor) -> "PolicyBatch":
        """Some of the rows, without the columns behind their last target."""
        ends = (self.targets[chosen] != IGNORE).any(0).nonzero()
        columns = slice(0, int(ends[-1]) + 1 if len(ends) else 1)
        return self._mapped(lambda tensor: tensor[chosen][:, columns])

    def to(self, device: torch.device | str) -> "PolicyBatch":
        """The batch on another device; itself where it is there already."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON can hold it, exactly."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in self._values().items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "PolicyBatch":
        """What `to_json` gave."""
        made: dict[str, Any] = {name: torch.tensor(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**made)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "PolicyBatch":
        tensors: dict[str, Any] = {name: change(v) for name, v in self._values().items() if isinstance(v, Tensor)}
        return replace(self, **tensors)

    def _values(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
