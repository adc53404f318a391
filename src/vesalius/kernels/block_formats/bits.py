"""Small integers packed into bytes, and half-precision scales kept as two bytes: what every block format is made of.

A format keeps the first values of a group in the low bits of its bytes and later values in higher bits, so that one
load and a few shifts give several runs of neighbours. `planes` is that reading, `packed` its inverse.
"""

import torch
from torch import Tensor


def planes(packed: Tensor, width: int) -> Tensor:
    """uint8 (…, n) -> uint8 (…, 8 / width, n): the lowest `width` bits of all n bytes, then the next lowest, …

    >>> planes(torch.tensor([0x21, 0x43], dtype=torch.uint8), 4)
    tensor([[1, 3],
            [2, 4]], dtype=torch.uint8)
    """
    shifts = torch.arange(0, 8, width, dtype=torch.uint8).unsqueeze(-1)
    return (packed.unsqueeze(-2) >> shifts) & ((1 << width) - 1)


def packed(values: Tensor, width: int) -> Tensor:
    """(…, 8 / width, n) integers of `width` bits -> uint8 (…, n): the inverse of `planes`.

    >>> packed(torch.tensor([[1, 3], [2, 4]]), 4)
    tensor([33, 67], dtype=torch.uint8)
    """
    shifts = torch.arange(0, 8, width, dtype=torch.uint8).unsqueeze(-1)
    return (values.to(torch.uint8) << shifts).sum(-2, dtype=torch.uint8)  # no bit is set twice: the sum is an "or"


def bit_sequence(packed_bits: Tensor) -> Tensor:
    """uint8 (…, n) -> uint8 (…, 8n): bit 0 of the first byte, bit 1, …, bit 0 of the second byte, …"""
    return planes(packed_bits, 1).transpose(-1, -2).flatten(-2)


def packed_bit_sequence(bits: Tensor) -> Tensor:
    """(…, 8n) zeros and ones -> uint8 (…, n): the inverse of `bit_sequence`."""
    return packed(bits.unflatten(-1, (-1, 8)).transpose(-1, -2), 1)


def half_to_float(field: Tensor) -> Tensor:
    """uint8 (…, 2), a little-endian half-precision number -> float32 (…, 1)."""
    return field.clone(memory_format=torch.contiguous_format).view(torch.float16).float()


def float_to_half(scale: Tensor) -> Tensor:
    """float32 (…, 1) -> uint8 (…, 2). ValueError where a half-precision number cannot be that large."""
    half = scale.to(torch.float16)
    if half.isinf().any():
        largest = scale.abs().max().item()
        raise ValueError(f"a block needs the scale {largest:.4g}, half precision ends at 65504: scale the weights down")
    return half.view(torch.uint8)
