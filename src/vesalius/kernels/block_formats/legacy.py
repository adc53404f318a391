"""Blocks of 32 values with one scale: q4_0, q4_1, q5_0, q5_1, q8_0 (ggml, 2023; the layouts are those of GGUF files).

d and m are half-precision numbers, q unsigned integers. In "q lo|hi" a byte holds value i in its low four bits and
value i + 16 in its high four; qh holds the fifth bit of value i as bit i of 32.

    bytes        0    2    4    6                              value
    q4_0 (18)    [ d ][ q lo|hi 16                   ]         d · (q - 8)
    q4_1 (20)    [ d ][ m ][ q lo|hi 16              ]         d · q + m
    q5_0 (22)    [ d ][ qh 4    ][ q lo|hi 16        ]         d · (q - 16)
    q5_1 (24)    [ d ][ m ][ qh 4    ][ q lo|hi 16   ]         d · q + m
    q8_0 (34)    [ d ][ q 32 signed bytes            ]         d · q

Quantising rounds to the nearest step. The symmetric formats put the value of largest magnitude, with its sign, on
-8 or -16, because the integers reach one step further down than up. The codes are counted with the scale in float32;
only the stored scale is rounded to half precision, as the reference implementation does.
"""

import torch
from torch import Tensor

from vesalius.kernels.block_formats.bits import (
    bit_sequence,
    float_to_half,
    half_to_float,
    packed,
    packed_bit_sequence,
    planes,
)


def dequantise_q4_0(blocks: Tensor) -> Tensor:
    """uint8 (…, 18) -> float32 (…, 32)."""
    d, q = blocks.split([2, 16], -1)
    return half_to_float(d) * (_nibbles(q).float() - 8)


def dequantise_q4_1(blocks: Tensor) -> Tensor:
    """uint8 (…, 20) -> float32 (…, 32)."""
    d, m, q = blocks.split([2, 2, 16], -1)
    return half_to_float(d) * _nibbles(q).float() + half_to_float(m)


def dequantise_q5_0(blocks: Tensor) -> Tensor:
    """uint8 (…, 22) -> float32 (…, 32)."""
    d, qh, q = blocks.split([2, 4, 16], -1)
    return half_to_float(d) * ((_nibbles(q) | bit_sequence(qh) << 4).float() - 16)


def dequantise_q5_1(blocks: Tensor) -> Tensor:
    """uint8 (…, 24) -> float32 (…, 32)."""
    d, m, qh, q = blocks.split([2, 2, 4, 16], -1)
    return half_to_float(d) * (_nibbles(q) | bit_sequence(qh) << 4).float() + half_to_float(m)


def dequantise_q8_0(blocks: Tensor) -> Tensor:
    """uint8 (…, 34) -> float32 (…, 32)."""
    d, q = blocks.split([2, 32], -1)
    return half_to_float(d) * q.view(torch.int8).float()


def quantise_q4_0(x: Tensor) -> Tensor:
    """float32 (…, 32) -> uint8 (…, 18)."""
    d, q = _symmetric(x, 8)
    return torch.cat([float_to_half(d), _packed_nibbles(q)], -1)


def quantise_q4_1(x: Tensor) -> Tensor:
    """float32 (…, 32) -> uint8 (…, 20)."""
    d, m, q = _affine(x, 15)
    return torch.cat([float_to_half(d), float_to_half(m), _packed_nibbles(q)], -1)


def quantise_q5_0(x: Tensor) -> Tensor:
    """float32 (…, 32) -> uint8 (…, 22)."""
    d, q = _symmetric(x, 16)
    return torch.cat([float_to_half(d), packed_bit_sequence(q >> 4), _packed_nibbles(q & 15)], -1)


def quantise_q5_1(x: Tensor) -> Tensor:
    """float32 (…, 32) -> uint8 (…, 24)."""
    d, m, q = _affine(x, 31)
    return torch.cat([float_to_half(d), float_to_half(m), packed_bit_sequence(q >> 4), _packed_nibbles(q & 15)], -1)


def quantise_q8_0(x: Tensor) -> Tensor:
    """float32 (…, 32) -> uint8 (…, 34). Halves are rounded away from zero."""
    d = x.abs().amax(-1, keepdim=True) / 127
    steps = (x * _inverse(d)).abs()
    q = x.sign() * (steps.floor() + (2 * (steps - steps.floor())).floor())
    return torch.cat([float_to_half(d), q.to(torch.int8).view(torch.uint8)], -1)


def _symmetric(x: Tensor, half_range: int) -> tuple[Tensor, Tensor]:
    """(…, 32) -> scale (…, 1) and codes (…, 32) in [0, 2 · half_range): code - half_range steps of the scale."""
    extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))
    d = extreme / -half_range
    q = (x * _inverse(d) + (half_range + 0.5)).trunc().clamp(0, 2 * half_range - 1)
    return d, q.to(torch.uint8)


def _affine(x: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """(…, 32) -> scale (…, 1), minimum (…, 1) and codes (…, 32) in [0, top]."""
    m = x.amin(-1, keepdim=True)
    d = (x.amax(-1, keepdim=True) - m) / top
    q = ((x - m) * _inverse(d) + 0.5).trunc().clamp(0, top)
    return d, m, q.to(torch.uint8)


def _inverse(d: Tensor) -> Tensor:
    """1 / d, and 0 for a scale so small that its inverse is no number: such a block is stored as zeros."""
    inverse = 1 / d
    return inverse.masked_fill(inverse.isinf(), 0.0)


def _nibbles(q: Tensor) -> Tensor:
    """uint8 (…, 16) -> uint8 (…, 32): the low halves of all bytes, then the high halves."""
    return planes(q, 4).flatten(-2)


def _packed_nibbles(q: Tensor) -> Tensor:
    return packed(q.unflatten(-1, (2, 16)), 4)
