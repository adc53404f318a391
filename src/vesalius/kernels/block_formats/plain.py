"""Formats without blocks: every value stands alone, little-endian, in 4 or 2 bytes.

f32   seee eeee efff ffff ffff ffff ffff ffff   IEEE 754 single
f16   seee eeff ffff ffff                       IEEE 754 half: more precision, values up to 65504
bf16  seee eeee efff ffff                       the upper half of an f32: all its range, 8 bits of precision
"""

import torch
from torch import Tensor


def dequantise_f32(rows: Tensor) -> Tensor:
    """uint8 (…, 4n) -> float32 (…, n): a view of the same memory where the bytes are aligned."""
    return _values(rows, torch.float32)


def dequantise_f16(rows: Tensor) -> Tensor:
    """uint8 (…, 2n) -> float32 (…, n), exact."""
    return _values(rows, torch.float16).float()


def dequantise_bf16(rows: Tensor) -> Tensor:
    """uint8 (…, 2n) -> float32 (…, n), exact."""
    return _values(rows, torch.bfloat16).float()


def quantise_f32(x: Tensor) -> Tensor:
    """float (…, n) -> uint8 (…, 4n)."""
    return _bytes(x, torch.float32)


def quantise_f16(x: Tensor) -> Tensor:
    """float (…, n) -> uint8 (…, 2n), rounded to the nearest even; beyond 65504 it is infinite."""
    return _bytes(x, torch.float16)


def quantise_bf16(x: Tensor) -> Tensor:
    """float (…, n) -> uint8 (…, 2n), rounded to the nearest even."""
    return _bytes(x, torch.bfloat16)


def _values(rows: Tensor, dtype: torch.dtype) -> Tensor:
    rows = rows.contiguous()
    if rows.storage_offset() % dtype.itemsize:  # a file may align its tensors to less than a value
        rows = rows.clone()
    return rows.view(dtype)


def _bytes(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype).contiguous().view(torch.uint8)
