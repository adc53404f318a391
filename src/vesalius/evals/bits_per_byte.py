"""Bits per byte: what a held-out text costs a model, on a scale that does not depend on its tokens.

    Σ over tokens of -log2 P(token | its document so far)  /  bytes of the documents

Boundaries are given and cost nothing. Each token is predicted exactly once; windows that overlap (`stride` below
`context`) predict it from a longer past and take more time. In training a sample is measured, afterwards all of it.
Source: Gao et al. 2020 (The Pile), arXiv:2101.00027, section 3.1. Left out: the tokens' own units, such as perplexity.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE
from vesalius.data.loader import SequentialWindows
from vesalius.data.shards import TokenShards
from vesalius.evals.document_sample import sample_documents
from vesalius.foundations import information


@torch.inference_mode()
def bits_per_byte(
    model: nn.Module,
    shards: TokenShards,
    *,
    context: int,
    batch_rows: int = 8,
    stride: int | None = None,
    max_tokens: int | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Measures `model(tokens, positions) -> logits` on a split, in evaluation mode, on the device where it is.

    context, stride   window length and the distance between windows, in tokens; stride None is context
    max_tokens        at most so many tokens of whole documents (see `sample_documents`); None takes the split
    dtype             of autocast; None computes in the weights' own
    Returns "bits_per_byte", "loss" in nats per token, and on how much: "measured_documents", "measured_tokens" (without
    boundaries) and "measured_bytes". UserError where the split holds no text.
    """
    documents = sample_documents(shards, max_tokens)
    if documents.n_bytes == 0:
        raise UserError(
            f"the {shards.split} split holds no text to measure on: give more text, or a larger validation_fraction"
        )
    device = next(model.parameters()).device
    nats, tokens = 0.0, 0
    windows = SequentialWindows(cast(TokenShards, documents), context, batch_rows, stride)
    with evaluating(model), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        for batch in windows:
            batch = batch.to(device)
            nats += float(negative_log_likelihood(model(batch.tokens, batch.positions), batch.targets))
            tokens += batch.weight
    return {
        "bits_per_byte": information.bits_per_byte(nats, documents.n_bytes),
        "loss": nats / tokens,
        "measured_documents": len(documents),
        "measured_tokens": tokens,
        "measured_bytes": documents.n_bytes,
    }


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (B, T, V), targets (B, T) -> () float32 nats, summed over the targets that are not IGNORE.

    A row at a time: log-softmax copies its input, and a batch of logits may be the largest tensor there is.
    """
    rows = zip(logits, targets, strict=True)
    return torch.stack([F.cross_entropy(x.float(), y, ignore_index=IGNORE, reduction="sum") for x, y in rows]).sum()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode inside, in the mode it came in afterwards."""
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)
