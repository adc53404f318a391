"""What torch alone multiplies quantised matrices with, where no compiler is: its int4 product, or bfloat16 weights.

Torch has one product on the CPU that reads small integers with a scale per group: 4 bits, groups of 32, with scales,
activations and results in bfloat16. A code of 5 or 8 bits is two of 4: code = 16 · high + low, two products, one sum.

    formats             form                                    bytes a weight
    q4_0 q4_1 q4_k      one int4 part                           0.625
    q5_0 q5_1 q5_k q8_0 two int4 parts                          1.25
    q2_k q3_k q6_k      bfloat16 (their scales are per 16)      2

Accuracy: scales lose all but 8 bits (2⁻⁹ relative, independent from group to group), and so do activations and results.
Left out: float32 results, which this operation of torch does not give.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.block_formats.bits import bit_sequence, half_to_float, planes
from vesalius.kernels.block_formats.k_quants import unpack_scales

GROUP = 32  # columns with one scale
ROWS_AT_ONCE = 1024  # a multiple of 64, torch's own tile, so that parts packed one by one lie as if packed together
INT4_PRODUCT = torch.ops.aten._weight_int4pack_mm_for_cpu.default  # named in full: torch then need not look for it
PADDING = 16  # torch wants a multiple of so many rows

Affine = tuple[Tensor, Tensor, Tensor]
"""codes uint8 (rows, columns), scale and minimum float32 (rows, groups): weight = scale · code + minimum."""


@dataclass(frozen=True, eq=False)
class Int4Part:
    """codes as torch packs them, scales and zeros (groups, rows, 2) bfloat16: weight = scale · (code - 8) + zero."""

    codes: Tensor
    scales_and_zeros: Tensor


@dataclass(frozen=True, eq=False)
class TorchForm:
    """Either one or two int4 parts whose products are added, or weights (rows, columns) bfloat16."""

    rows: int
    parts: tuple[Int4Part, ...] = ()
    weight: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def tensors(self) -> list[Tensor]:
        """All that it is made of."""
        if self.weight is not None:
            return [self.weight]
        return [tensor for part in self.parts for tensor in (part.codes, part.scales_and_zeros)]

    def moved(self, move: Callable[[Tensor], Tensor]) -> "TorchForm":
        """The same, each of its `tensors` where `move` puts it."""
        if self.weight is not None:
            return replace(self, weight=move(self.weight))
        return replace(self, parts=tuple(Int4Part(move(p.codes), move(p.scales_and_zeros)) for p in self.parts))

    def product(self, x: Tensor) -> Tensor:
        """x (M, columns) -> (M, rows) float32, with the accuracy of bfloat16."""
        x = x.bfloat16()
        if self.weight is not None:
            return F.linear(x, self.weight).float()
        sums = [INT4_PRODUCT(x, part.codes, GROUP, part.scales_and_zeros) for part in self.parts]
        total = sums[0].float() if len(sums) == 1 else sums[0].float().add_(sums[1])
        return total if total.shape[1] == self.rows else total[:, : self.rows]


def form_bytes(format: str, rows: int, columns: int) -> int:
    """What `TorchForm.nbytes` will be, without making the form."""
    if format not in AFFINE:
        return 2 * rows * columns
    padded = rows + -rows % PADDING
    return (1 if format.startswith("q4") else 2) * padded * (columns // 2 + 4 * columns // GROUP)


def torch_form(blocks: BlockTensor) -> TorchForm:
    """The form of the table above for a matrix (rows, columns) of quantised blocks."""
    read = AFFINE.get(blocks.format)
    pieces = [BlockTensor.of(blocks.format, rows) for rows in blocks.blocks.split(ROWS_AT_ONCE)]
    if read is None:
        return TorchForm(blocks.shape[0], weight=torch.cat([piece.dequantise().bfloat16() for piece in pieces]))
    split = [_int4_parts(blocks.format, *read(piece.blocks)) for piece in pieces]
    joined = (
        Int4Part(torch.cat([p.codes for p in parts]), torch.cat([p.scales_and_zeros for p in parts], 1))
        for parts in zip(*split, strict=True)
    )
    return TorchForm(blocks.shape[0], parts=tuple(joined))


def _int4_parts(format: str, codes: Tensor, scale: Tensor, minimum: Tensor) -> tuple[Int4Part, ...]:
    """Splits codes into the low and, where there are any, the high four bits. The high part takes the offset of a
    symmetric format into its codes and needs no zero: large parts that cancel would lose what bfloat16 cannot hold.
    """
    low = codes & 15
    if format.startswith("q4"):
        return (_int4_part(low, scale, minimum + 8 * scale),)
    offset = {"q8_0": 8, "q5_0": 1}.get(format, 0)  # in steps of the high part
    high_zero, low_zero = torch.zeros_like(scale), minimum + (8 + 16 * offset) * scale
    return _int4_part(low, scale, low_zero), _int4_part((codes >> 4) + (8 - offset), 16 * scale, high_zero)


def _int4_part(codes: Tensor, scale: Tensor, zero: Tensor) -> Int4Part:
    missing = -len(codes) % PADDING
    codes, scale, zero = (F.pad(part, (0, 0, 0, missing)) for part in (codes, scale, zero))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    return Int4Part(packed, torch.stack((scale.T, zero.T), -1).bfloat16().contiguous())


def _read_plain(bits: int, minimum: bool, offset: int) -> Callable[[Tensor], Affine]:
    """Reads q4_0, q4_1, q5_0, q5_1 and q8_0: d, m if any, the fifth bits if any, the codes."""
    sizes = [2, 2 * minimum, 4 * (bits == 5), 32 if bits == 8 else 16]

    def read(rows: Tensor) -> Affine:
        blocks = rows.unflatten(-1, (-1, sum(sizes)))
        d, m, high, q = blocks.split(sizes, -1)
        scale = half_to_float(d).squeeze(-1)
        codes = q ^ 128 if bits == 8 else planes(q, 4).flatten(-2)
        if bits == 5:
            codes = codes | bit_sequence(high) << 4
        return codes.flatten(-2), scale, half_to_float(m).squeeze(-1) if minimum else -offset * scale

    return read


def _read_k(bits: int) -> Callable[[Tensor], Affine]:
    """Reads q4_k and q5_k: d, dmin, scales and minima of 6 bits, the fifth bits if any, the codes."""
    sizes = [2, 2, 12, 32 * (bits == 5), 128]

    def read(rows: Tensor) -> Affine:
        d, dmin, scales, high, q = rows.unflatten(-1, (-1, sum(sizes))).split(sizes, -1)
        scale, minimum = unpack_scales(scales)
        codes = planes(q.unflatten(-1, (4, 32)), 4).flatten(-3)
        if bits == 5:
            codes = codes | planes(high, 1).flatten(-2) << 4
        steps, least = half_to_float(d) * scale.float(), half_to_float(dmin) * minimum.float()
        return codes.flatten(-2), steps.flatten(-2), -least.flatten(-2)

    return read


AFFINE: Mapping[str, Callable[[Tensor], Affine]] = {
    "q4_0": _read_plain(4, False, 8),
    "q4_1": _read_plain(4, True, 0),
    "q5_0": _read_plain(5, False, 16),
    "q5_1": _read_plain(5, True, 0),
    "q8_0": _read_plain(8, False, 128),
    "q4_k": _read_k(4),
    "q5_k": _read_k(5),
}
