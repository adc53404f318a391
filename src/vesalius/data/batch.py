"""What one training step eats. Every batch source makes these, and the loop and next-token objectives read nothing
else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORE = -100
"""The target of a position that has no loss; torch's cross-entropy uses the same number."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Token sequences with their targets.

    tokens     (B, T) int64
    targets    (B, T) int64: the token to predict at each position, IGNORE where there is no loss
    positions  (B, T) int64, starting again from 0 at every document or conversation; None: one document a row
    source     where the rows come from, in words that help a person to find them
    """

    tokens: Tensor
    targets: Tensor
    positions: Tensor | None = None
    source: str = ""

    @property
    def weight(self) -> int:
        """How many positions have a loss: what this batch weighs when micro-batches are averaged."""
        return int((self.targets != IGNORE).sum())

    def split(self, rows: int) -> Sequence["Batch"]:
        """The same rows in order as batches of at most `rows`; `IGNORE` targets stay where they are."""
        positions = self.positions if self.positions is not None else torch.empty(len(self.tokens), 0)
        parts = zip(self.tokens.split(rows), self.targets.split(rows), positions.split(rows), strict=True)
        return [
            replace(self, tokens=tokens, targets=targets, positions=None if self.positions is None else places)
            for tokens, targets, places in parts
        ]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device; itself where it is there already."""
        positions = None if self.positions is None else self.positions.to(device, non_blocking=True)
        return replace(
            self,
            tokens=self.tokens.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            positions=positions,
        )
