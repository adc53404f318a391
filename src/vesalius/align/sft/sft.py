"""Supervised fine-tuning: conversations packed into rows, with a target only where the assistant speaks.

There is no objective here. Instruction tuning is next-token prediction without a loss on what others say (Touvron et
al. 2023, arXiv:2307.09288, section 3.1), and that is in the batch: IGNORE at every position whose next token is not the
assistant's, whose end of turn is. So the loop trains it with the same NextToken as pretraining (contract 3), and this
file is only a batch source.

Rows are packed (packing.py, of several sources mixing.py), and no conversation is cut or sees another, because
positions begin again at each and attention stops where they do.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from vesalius.align.rows.encoding import Encoded
from vesalius.align.rows.packing import PackedBatches, PackedRows
from vesalius.align.rows.spans import Spans
from vesalius.align.sft.mixing import MixedRows
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch


class PackedConversations(PackedBatches[Batch]):
    """An endless iterator of `Batch`es of `batch_rows` rows of `context` tokens, one epoch after another.

    With `weights`, the share of the tokens that each origin has, relative to the others; without, every conversation
    comes once an epoch. UserError where an origin has no conversation.
    """

    def __init__(
        self,
        encoded: Encoded,
        *,
        batch_rows: int,
        context: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.encoded, self.batch_rows, self.context = encoded, batch_rows, context
        super().__init__(_rows(encoded, weights, context, seed), batch_rows)

    def batch(self, rows: list[list[int]], source: str) -> Batch:
        return batch_of(self.encoded, rows, self.context, source=source)


def _rows(encoded: Encoded, weights: Mapping[str, float] | None, context: int, seed: int) -> PackedRows | MixedRows:
    lengths = encoded.spans.lengths
    if weights is None:
        fingerprint = encoded.spans.fingerprint(f"{context}|{seed}")
        return PackedRows(lengths, context=context, seed=seed, fingerprint=fingerprint)
    _check_weights(encoded, weights)
    fingerprint = encoded.spans.fingerprint(f"{context}|{seed}|{[*weights.items()]}")
    sources, shares = encoded.sources(weights), [*weights.values()]
    return MixedRows(lengths, sources, shares, context=context, seed=seed, fingerprint=fingerprint)


def batch_of(encoded: Encoded, rows: Sequence[Sequence[int]], context: int, *, source: str = "") -> Batch:
    """The batch whose rows have the conversations of these numbers."""
    laid_out = (_lay_out(row, encoded.spans, context, encoded.padding) for row in rows)
    tokens, targets, positions = (torch.stack(column) for column in zip(*laid_out, strict=True))
    source += " | ".join(describe_row(row, encoded.names) for row in rows)
    return Batch(tokens=tokens, targets=targets, positions=positions, source=source)


def describe_row(row: Sequence[int], names: list[str]) -> str:
    """The first item of a row and how many more it has."""
    return names[row[0]] + (f" and {len(row) - 1} more" if len(row) > 1 else "")


def _check_weights(encoded: Encoded, weights: Mapping[str, float]) -> None:
    there = set(encoded.origins)
    if missing := next((origin for origin in weights if origin not in there), None):
        raise UserError(
            f"{missing} has a weight of {weights[missing]:g}, but no conversation of it is left to train on: all "
            "are too long, or fell to validation"
        )
    if unnamed := next((origin for origin in encoded.origins if origin not in weights), None):
        raise UserError(f"{unnamed} has no weight, the others have: give all of them one, or none")


def _lay_out(row: Sequence[int], data: Spans, context: int, padding: int) -> tuple[Tensor, Tensor, Tensor]:
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
