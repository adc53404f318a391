"""Integers in place of floats: x ≈ scale (q - zero_point), with q of few bits.

An affine format spends its 2^b steps evenly between the least and the largest number. Its error is at most half a step
everywhere, where a float's is proportional: one outlier makes the step, and everything small is lost. Hence many
scales, one a row or a block. The symmetric variant has zero_point 0 and leaves the lowest integer unused, so that -x
costs nothing.

Zero must be a number of the format, or padding and relu would not come through: the range is widened to include it.
Source: Jacob et al. 2018, arXiv:1712.05877, section 2.1. The arithmetic is torch's, in float32. Left out: choosing the
range by error, which compress/ does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
LEAST_SCALE = np.finfo(np.float32).tiny
"""The smallest normal number: the inverse of a smaller one, or of 0, would be infinite."""


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Scale and zero point, both broadcastable to the numbers, and the integers from `lowest` to `highest`."""

    scale: Floats32
    zero_point: NDArray[np.int32]
    lowest: int
    highest: int

    def encode(self, x: Floats32) -> NDArray[np.int32]:
        """x (…) -> (…) integers, the nearest; the ends where x is outside."""
        units = np.rint(x.astype(np.float32) * (np.float32(1) / self.scale))  # as torch: times the inverse
        return np.clip(units + self.zero_point, self.lowest, self.highest).astype(np.int32)

    def decode(self, q: NDArray[np.int32]) -> Floats32:
        """(…) integers -> (…) float32."""
        return (q - self.zero_point).astype(np.float32) * self.scale


def fit_affine(x: Floats32, bits: int, *, axis: int | None = None, symmetric: bool = False) -> Affine:
    """The format of 2 to 16 bits that spans x: one for all of it, or one for each row along `axis` -1.

    With `symmetric`, from -largest to largest around 0. ValueError where x is not finite or the width is no such.

    >>> fit_affine(np.float32([-1, 0, 2]), 8).encode(np.float32([-1, 0, 2])).tolist()
    [-128, -43, 127]
    """
    if not 2 <= bits <= 16 or not np.isfinite(x).all():
        raise ValueError(
            f"integers need 2 to 16 bits and finite numbers, got {bits} bits and range {x.min()}, {x.max()}"
        )
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low, high = (np.asarray(e, np.float32) for e in (x.min(axis, keepdims=True), x.max(axis, keepdims=True)))
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        scale = np.maximum(np.maximum(-low, high) / np.float32(highest), LEAST_SCALE)
        return Affine(scale=scale, zero_point=np.zeros(scale.shape, np.int32), lowest=-highest, highest=highest)
    scale = np.maximum((high - low) / np.float32(highest - lowest), LEAST_SCALE)
    zero_point = np.clip(lowest - np.rint(low / scale), lowest, highest).astype(np.int32)
    return Affine(scale=scale, zero_point=zero_point, lowest=lowest, highest=highest)
