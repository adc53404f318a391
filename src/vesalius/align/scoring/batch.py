"""What a scoring model learns from: rows of answers, some of whose tokens have a score that is wanted there.

    what is learned     at which tokens                           the number there
    pairs               the last one of each of two answers       the margin at the chosen one, 0 at the rejected one
    scores              the last one of an answer                 its score
    steps               the last one of each step                 1 where the step is right, else 0

Of a pair the chosen answer comes first and both are in one row, so the tokens with a number, taken row by row, are
chosen and rejected by turns, and a micro-batch keeps pairs together.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """Rows of answers.

    tokens     (B, T) int64
    positions  (B, T) int64 as in data.Batch; falling back to p > 0 where another answer goes on from the first p tokens
               (kernels/attention.document_mask)
    targets    (B, T) float32: the number wanted at each token, NaN where none is
    source     where the rows come from, in words that help a person to find them
    """

    tokens: Tensor
    positions: Tensor
    targets: Tensor
    source: str = ""

    @property
    def scored(self) -> Tensor:
        """(B, T) bool: the tokens that have a number."""
        return ~self.targets.isnan()

    @property
    def wanted(self) -> Tensor:
        """(N,) the numbers, row by row."""
        return self.targets[self.scored]

    @property
    def weight(self) -> int:
        """How many tokens have a number: what this batch weighs when micro-batches are averaged."""
        return int(self.scored.sum())

    def split(self, rows: int) -> "list[ScoredBatch]":
        """The same rows in order as batches of at most `rows`."""
        parts = zip(self.tokens.split(rows), self.positions.split(rows), self.targets.split(rows), strict=True)
        return [replace(self, tokens=tokens, positions=places, targets=targets) for tokens, places, targets in parts]

    def to(self, device: torch.device | str) -> "ScoredBatch":
        """The batch on another device; itself where it is there already."""
        tokens, places, targets = (
            tensor.to(device, non_blocking=True) for tensor in (self.tokens, self.positions, self.targets)
        )
        return replace(self, tokens=tokens, positions=places, targets=targets)
