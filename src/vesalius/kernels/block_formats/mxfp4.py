"""mxfp4: 32 four-bit floats that share a power of two (OCP Microscaling Formats 1.0, sections 5.1 and 5.3.3), in the
order of GGUF files. gpt-oss is published in it.

    byte 0       s, a biased exponent          value   2^(s - 128) · k, k the code's value doubled: a whole number
    bytes 1-16   value i in the low four bits of byte i, value i + 16 in the high four

Left out: writing it, and a product of its own. k lies within ±12, which five bits hold, and the scale is a power of
two, so the same numbers are a q5_0 block, for which there are products.
"""

import torch
from torch import Tensor

from vesalius.kernels.block_formats.bits import float_to_half, packed, packed_bit_sequence, planes

DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""The sixteen values of E2M1, times 2."""

BIAS = 128
"""Of the exponent; one more than the format's own, because the values are doubled."""


def dequantise_mxfp4(blocks: Tensor) -> Tensor:
    """uint8 (…, 17) -> float32 (…, 32)."""
    scale, doubled = _parts(blocks)
    return scale * doubled.float()


def mxfp4_as_q5_0(blocks: Tensor) -> Tensor:
    """uint8 (…, 17 n) -> uint8 (…, 22 n), the same numbers; a scale below half precision's least, 2^-24, becomes 0.

    ValueError where a scale is above its largest, which no trained weight comes near.
    """
    scale, doubled = _parts(blocks.unflatten(-1, (-1, 17)))
    codes = (doubled + 16).to(torch.uint8)  # q5_0 counts from -16
    low = packed((codes & 15).unflatten(-1, (2, 16)), 4)
    return torch.cat([float_to_half(scale), packed_bit_sequence(codes >> 4), low], -1).flatten(-2)


def _parts(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (…, 17) -> 2^(s - 128) float32 (…, 1), and the doubled values int8 (…, 32)."""
    exponent, nibbles = blocks.split([1, 16], -1)
    scale = torch.ldexp(torch.ones(exponent.shape), exponent.int() - BIAS)
    return scale, torch.tensor(DOUBLED, dtype=torch.int8)[planes(nibbles, 4).flatten(-2).int()]
