"""The same mathematics, two programs: one that overflows and one that does not. And what scaling a loss saves.

e^89 is beyond float32 and e^12 beyond float16, while logits of 100 are ordinary. Softmax does not change when a number
is subtracted from all logits; with the largest subtracted, the largest term is e^0 = 1: nothing overflows, and what
underflows was negligible. log(softmax) needs the logarithm of the sum alone: through the probability it would be log 0.

Gradients are the other end: those below half of float16's smallest number, 3e-8, become 0, and whole layers have most
of theirs there. The loss is therefore multiplied by a power of two before the backward pass, which multiplies every
gradient without rounding, and the optimizer divides by it in float32. Too large a factor overflows instead.

Sources: Goodfellow et al. 2016, section 4.1; Micikevicius et al. 2017, arXiv:1710.03740, section 3.2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vesalius.foundations.floats.format import FloatFormat
from vesalius.foundations.floats.rounding import round_to

Rows = NDArray[np.floating]


def unstable_softmax(x: Rows) -> Rows:
    """x (…, V) -> (…, V) by the textbook's formula: NaN where e^x overflows, or all underflow."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        powers = np.exp(x)
        return powers / powers.sum(-1, keepdims=True)


def stable_softmax(x: Rows) -> Rows:
    """x (…, V) finite -> (…, V), with the largest logit subtracted first.

    >>> unstable_softmax(np.float32([100, 100])).tolist(), stable_softmax(np.float32([100, 100])).tolist()
    ([nan, nan], [0.5, 0.5])
    """
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def unstable_log_sum_exp(x: Rows) -> Rows:
    """x (…, V) -> (…,) by the textbook's formula: ∞ where e^x overflows, -∞ where all underflow."""
    with np.errstate(over="ignore", divide="ignore"):
        return np.log(np.exp(x).sum(-1))


def stable_log_sum_exp(x: Rows) -> Rows:
    """x (…, V) finite -> (…,): the largest plus the logarithm of a sum between 1 and V."""
    highest = x.max(-1, keepdims=True)
    return highest[..., 0] + np.log(np.exp(x - highest).sum(-1))


def unstable_log_softmax(x: Rows) -> Rows:
    """The logarithm of `stable_softmax`, which is not stable: -∞ where a probability underflows."""
    with np.errstate(divide="ignore"):
        return np.log(stable_softmax(x))


def stable_log_softmax(x: Rows) -> Rows:
    """x (…, V) finite -> (…, V), without a probability in between."""
    return x - stable_log_sum_exp(x)[..., None]


@dataclass(frozen=True, kw_only=True)
class Survival:
    """What becomes of gradients in a format: fractions of those that are not 0."""

    scale: float
    zero: float
    subnormal: float
    beyond: float  # became infinite or NaN


def survive(gradients: NDArray[np.floating], format: FloatFormat, scale: float = 1.0) -> Survival:
    """Gradients, finite, multiplied by `scale` and rounded to the format. ValueError where all are 0."""
    present = gradients[gradients != 0].astype(np.float64)
    if not present.size:
        raise ValueError("there is no gradient that is not 0: nothing can survive")
    rounded = np.abs(round_to(present * scale, format))
    return Survival(
        scale=scale,
        zero=float(np.mean(rounded == 0)),
        subnormal=float(np.mean((rounded > 0) & (rounded < format.smallest_normal))),
        beyond=float(np.mean(~np.isfinite(rounded))),
    )


def largest_safe_scale(gradients: NDArray[np.floating], format: FloatFormat) -> float:
    """The largest power of two with which no gradient leaves the format: what dynamic loss scaling finds by trying."""
    largest = float(np.abs(gradients).max())
    if not 0 < largest < np.inf:
        raise ValueError(f"the largest gradient must be finite and above 0, got {largest}")
    scale = 2.0 ** np.floor(np.log2(format.largest / largest))
    return float(scale)
