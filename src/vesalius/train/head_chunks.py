"""The output head a chunk of rows at a time, for everything that needs logits and keeps none of them.

The logits (B·T, V) in float32 are the largest tensor of a training step, and an allocator fetches memory of that size
anew each time, page by page. A chunk of them stays in the cache and in the same memory.

With z the head's output, s the divisor, c the cap and τ the temperature:

    logit = c · tanh(z / s / c) / τ,    ∂logit/∂z = (1 - (τ · logit / c)²) / (s · τ)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vesalius.kernels.linear import linear

CHUNK_BYTES = 8 * 2**20
"""Of logits at once: small enough for the allocator to give the same memory again, large enough for the products."""

MIN_ROWS = 128
"""Below that a product waits for the weight, which is read once for each chunk."""


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    """`logits_scaling` divides the head's output, `softcap` bounds it (0: not at all), `temperature` divides that."""

    logits_scaling: float = 1.0
    softcap: float = 0.0
    temperature: float = 1.0


def chunks(rows: int, vocab_size: int) -> Iterator[slice]:
    """The slices of so many rows whose logits exist at once."""
    step = max(MIN_ROWS, CHUNK_BYTES // (4 * vocab_size))
    return (slice(start, start + step) for start in range(0, rows, step))


def head_input(hidden: Tensor) -> Tensor:
    """hidden in the dtype in which a linear layer would read it: that of autocast, where this is on."""
    device = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden


def head_logits(x: Tensor, weight: Tensor, settings: HeadSettings) -> Tensor:
    """x (rows, D), weight (V, D) -> (rows, V) float32."""
    logits = linear(x, weight).float()
    if settings.logits_scaling != 1:
        logits = logits.div_(settings.logits_scaling)
    if settings.softcap:
        logits = logits.div_(settings.softcap).tanh_().mul_(settings.softcap)
    return logits if settings.temperature == 1 else logits.div_(settings.temperature)


def head_slope(logits: Tensor, settings: HeadSettings) -> Tensor | None:
    """∂logit/∂z, None where it is 1 everywhere."""
    divisor = settings.logits_scaling * settings.temperature
    if not settings.softcap:
        return None if divisor == 1 else logits.new_tensor(1 / divisor)
    return (1 - (logits * (settings.temperature / settings.softcap)).square_()).div_(divisor)


def accumulate(total: Tensor, gradient: Tensor, x: Tensor) -> None:
    """total (V, D) += gradientᵀ (V, rows) · x (rows, D), summed in total's precision."""
    if total.dtype == x.dtype:
        total.addmm_(gradient.T, x)
    else:
        total.add_(gradient.T @ x)
