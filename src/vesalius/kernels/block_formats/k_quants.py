"""Blocks of 256 values in groups, each group with its own small integer scale: q2_k, q3_k, q4_k, q5_k, q6_k (ggml's
"k-quants", 2023; the layouts are those of GGUF files).

d and dmin are half-precision numbers that scale the whole block; sc and mn are integers, one for each group.

          bytes    groups     value                        fields in order (bytes)
    q2_k   84      16 of 16   d · sc · q - dmin · mn       sc|mn 16 (4 bits each), q 64, d 2, dmin 2
    q3_k  110      16 of 16   d · (sc - 32) · (q - 4)      third bit of q 32, q 64, sc 12 (6 bits each), d 2
    q4_k  144       8 of 32   d · sc · q - dmin · mn       d 2, dmin 2, sc and mn 12 (6 bits each), q 128
    q5_k  176       8 of 32   d · sc · q - dmin · mn       d 2, dmin 2, sc and mn 12, fifth bit of q 32, q 128
    q6_k  210      16 of 16   d · sc · (q - 32)            q 128 (low 4 bits), q 64 (high 2 bits), sc 16 signed, d 2

The bits of q are kept in planes (see bits.py) over runs of 32 bytes, or 64 for q6_k's low bits: byte i of a run holds
value i in its lowest bits, value i + 32 in the next, and so on.

q4_k and q5_k keep 8 scales A…H and 8 minima a…h of 6 bits in 12 bytes; capital letters are scales, letters in the
upper two bits of the first eight bytes are the upper bits of the last four:

    0: EEAAAAAA   1: FFBBBBBB   2: GGCCCCCC    3: HHDDDDDD
    4: eeaaaaaa   5: ffbbbbbb   6: ggcccccc    7: hhdddddd
    8: eeeeEEEE   9: ffffFFFF  10: ggggGGGG   11: hhhhHHHH

q3_k keeps 16 scales in 12 bytes: the low 4 bits in planes over 8 bytes, the high 2 bits in planes over 4.
Quantising is in k_quantise.py.
"""

import torch
from torch import Tensor

from vesalius.kernels.block_formats.bits import half_to_float, planes


def dequantise_q2_k(blocks: Tensor) -> Tensor:
    """uint8 (…, 84) -> float32 (…, 256)."""
    scales, q, d, dmin = blocks.split([16, 64, 2, 2], -1)
    step = half_to_float(d) * (scales & 15).float()  # (…, 16)
    least = half_to_float(dmin) * (scales >> 4).float()
    return _affine(_runs(q, 32, 2, group=16), step, least)


def dequantise_q3_k(blocks: Tensor) -> Tensor:
    """uint8 (…, 110) -> float32 (…, 256)."""
    high, low, scales, d = blocks.split([32, 64, 12, 2], -1)
    low_scales, high_scales = scales.split([8, 4], -1)
    scale = planes(low_scales, 4).flatten(-2) | planes(high_scales, 2).flatten(-2) << 4
    q = _runs(low, 32, 2, group=16) | _runs(high, 32, 1, group=16) << 2
    return _symmetric(q.float() - 4, half_to_float(d) * (scale.float() - 32))


def dequantise_q4_k(blocks: Tensor) -> Tensor:
    """uint8 (…, 144) -> float32 (…, 256)."""
    d, dmin, scales, q = blocks.split([2, 2, 12, 128], -1)
    scale, least = unpack_scales(scales)
    return _affine(_runs(q, 32, 4, group=32), half_to_float(d) * scale.float(), half_to_float(dmin) * least.float())


def dequantise_q5_k(blocks: Tensor) -> Tensor:
    """uint8 (…, 176) -> float32 (…, 256)."""
    d, dmin, scales, high, low = blocks.split([2, 2, 12, 32, 128], -1)
    scale, least = unpack_scales(scales)
    q = _runs(low, 32, 4, group=32) | _runs(high, 32, 1, group=32) << 4
    return _affine(q, half_to_float(d) * scale.float(), half_to_float(dmin) * least.float())


def dequantise_q6_k(blocks: Tensor) -> Tensor:
    """uint8 (…, 210) -> float32 (…, 256)."""
    low, high, scales, d = blocks.split([128, 64, 16, 2], -1)
    step = half_to_float(d) * scales.view(torch.int8).float()
    q = _runs(low, 64, 4, group=16) | _runs(high, 32, 2, group=16) << 4
    return _symmetric(q.float() - 32, step)


def unpack_scales(scales: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (…, 12) of a q4_k or q5_k block -> scales and minima, uint8 (…, 8) each, below 64."""
    first, second, third = scales.split(4, -1)
    scale = torch.cat([first & 63, (third & 15) | (first >> 6) << 4], -1)
    least = torch.cat([second & 63, (third >> 4) | (second >> 6) << 4], -1)
    return scale, least


def pack_scales(scale: Tensor, least: Tensor) -> Tensor:
    """Scales and minima, uint8 (…, 8) each, below 64 -> uint8 (…, 12): the inverse of `unpack_scales`."""
    (scale_a, scale_e), (least_a, least_e) = scale.split(4, -1), least.split(4, -1)
    mixed = (scale_e & 15) | (least_e & 15) << 4
    return torch.cat([scale_a | (scale_e >> 4) << 6, least_a | (least_e >> 4) << 6, mixed], -1)


def _runs(q: Tensor, run: int, width: int, group: int) -> Tensor:
    """uint8 (…, n) of planes over runs of bytes -> uint8 (…, groups, group) in the order of the values."""
    in_runs = planes(q.unflatten(-1, (-1, run)), width)  # (…, n / run, 8 / width, run)
    return in_runs.flatten(-3).unflatten(-1, (-1, group))


def _affine(q: Tensor, step: Tensor, least: Tensor) -> Tensor:
    """Codes (…, groups, group), step and minimum (…, groups) -> float32 (…, 256)."""
    return (step.unsqueeze(-1) * q.float() - least.unsqueeze(-1)).flatten(-2)


def _symmetric(q: Tensor, step: Tensor) -> Tensor:
    """Centred codes (…, groups, group), step (…, groups) -> float32 (…, 256)."""
    return (step.unsqueeze(-1) * q).flatten(-2)
