"""Blocks of tiny floats that share a scale: MXFP8 to MXFP4, and NVFP4.

Four bits have 8 magnitudes, from 0 to 6: too few for a tensor, enough for 32 neighbours once they are scaled by the
largest of them. What the scale is written in is the difference:

    MX      blocks of 32; scale 2^(⌊log2 of the largest⌋ - largest exponent of the format), one byte (E8M0)
    NVFP4   blocks of 16; scale = largest / 6 in FP8 E4M3, and one float32 for the tensor, which brings the
            scales themselves into E4M3's range

A power of two loses nothing in itself but leaves up to half of the format's range unused; what would round beyond the
range saturates. NVFP4 pays half a bit a number more for a scale with a mantissa. Sources: OCP Microscaling Formats 1.0,
section 6.3; NVIDIA 2025, arXiv:2509.25149, appendix C. Left out: MXINT8, and scales chosen by error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vesalius.foundations.floats.format import FORMATS, Bits, FloatFormat, Floats
from vesalius.foundations.floats.rounding import encode

MX_BLOCK, NV_BLOCK = 32, 16
SCALE_BIAS = 127
"""Of E8M0: eight bits that are an exponent and nothing else; 255 is NaN."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Numbers (…, D) as patterns (…, D), and what each block of a row is scaled by (…, D / block)."""

    format: FloatFormat
    patterns: Bits
    scale_patterns: Bits
    scales: Floats

    def decode(self) -> Floats:
        """(…, D) float64."""
        block = self.patterns.shape[-1] // self.scales.shape[-1]
        return self.format.decode(self.patterns) * np.repeat(self.scales, block, -1)

    @property
    def bits_per_number(self) -> float:
        """Scales of one byte included."""
        return self.format.bits + 8 * self.scales.shape[-1] / self.patterns.shape[-1]


def encode_mx(x: NDArray[np.floating], format: FloatFormat) -> Blocks:
    """x (…, D) finite, D a multiple of 32 -> blocks of a format of 4 to 8 bits. ValueError where x does not fit.

    >>> blocks = encode_mx(np.full(32, 3.0), FORMATS["fp4_e2m1"])
    >>> float(blocks.scales[0]), float(blocks.decode()[0])
    (0.5, 3.0)
    """
    largest = _largest(x, MX_BLOCK)
    exponents = _exponent(largest) - int(_exponent(np.asarray(format.largest)))
    exponents = np.where(largest > 0, np.clip(exponents, -SCALE_BIAS, SCALE_BIAS), 0)
    scales = np.ldexp(1.0, exponents)
    patterns = encode(x / np.repeat(scales, MX_BLOCK, -1), format, saturate=True)
    return Blocks(
        format=format, patterns=patterns, scale_patterns=(exponents + SCALE_BIAS).astype(np.uint64), scales=scales
    )


def encode_nvfp4(x: NDArray[np.floating]) -> Blocks:
    """x (…, D) finite, D a multiple of 16 -> FP4 E2M1 with scales in FP8 E4M3. ValueError where x does not fit.

    `scales` are the products of each block's scale and the tensor's, a float32.
    """
    elements, of_scales = FORMATS["fp4_e2m1"], FORMATS["fp8_e4m3"]
    largest = _largest(x, NV_BLOCK)
    highest = float(largest.max(initial=0.0))
    tensor_scale = float(np.float32(highest / (elements.largest * of_scales.largest))) or 1.0
    scale_patterns = encode(largest / elements.largest / tensor_scale, of_scales, saturate=True)
    scales = of_scales.decode(scale_patterns) * tensor_scale
    divisors = np.repeat(np.where(scales > 0, scales, np.inf), NV_BLOCK, -1)  # blocks that vanish become 0
    patterns = encode(x / divisors, elements, saturate=True)
    return Blocks(format=elements, patterns=patterns, scale_patterns=scale_patterns, scales=scales)


def relative_error(x: NDArray[np.floating], decoded: Floats) -> float:
    """Root mean square of the error over that of x: 0.1 is a signal-to-noise ratio of 20 dB."""
    return float(np.sqrt(np.mean((x - decoded) ** 2) / np.mean(np.square(x, dtype=np.float64))))


def _largest(x: NDArray[np.floating], block: int) -> Floats:
    """The largest magnitude of each block of the last axis."""
    if x.shape[-1] % block or not np.isfinite(x).all():
        raise ValueError(f"rows must be finite and a multiple of {block} long, got shape {x.shape}: pad with zeros")
    return np.abs(x, dtype=np.float64).reshape(*x.shape[:-1], -1, block).max(-1)


def _exponent(x: Floats) -> NDArray[np.int64]:
    """⌊log2 x⌋ of what is above 0."""
    return np.frexp(x)[1].astype(np.int64) - 1
