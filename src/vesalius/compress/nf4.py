"""NF4: weights in four bits at the quantiles of a normal distribution. Dettmers et al. 2023 (QLoRA), arXiv:2305.14314,
section 3 and appendix E.

Trained weights are nearly normal with mean 0, so levels at the quantiles of that distribution are used equally often,
and no bit is wasted. A block of 64 neighbours is divided by its largest magnitude, its scale, and each weight is
replaced by the nearest level. One of the levels is 0, so that padding stays exact; 7 lie below it and 8 above.

A float32 scale for 64 weights would be half a bit for each. So the scales are quantised once more, in eight bits and
blocks of 256 after their mean was taken away ("double quantisation"): 8/64 + 32/(64 · 256) = 0.127 bits a weight.

    |w - ŵ| ≤ 0.152 · the scale  +  0.0071 · the largest difference of 256 scales from the mean

Left out: a product of its own. Who multiplies makes floats of some rows at a time (kernels/frozen_product.py).
"""

from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor

from vesalius.compress.dynamic_codes import DynamicCodes, in_blocks, nearest_level, scaled

BLOCK = 64
OUTERMOST = round(1 - (1 / 32 + 1 / 30) / 2, 7)
"""The probability below the largest quantile: the mean of what halves of 16 and of 15 levels would leave out, since the
two sides have 8 and 7. The published levels were computed from seven digits of it, in float32."""


@cache
def nf4_levels() -> Tensor:
    """The 16 levels in [-1, 1], rising: (16,) float32, equal to the published table."""
    above, below = _quantiles(8), _quantiles(7)
    return torch.cat((-below.flip(0), torch.zeros(1), above)).sort().values / above.max()


def _quantiles(count: int) -> Tensor:
    """The positive quantiles of the normal distribution at so many even steps from 1/2, up to the outermost:
    (count,)."""
    return torch.special.ndtri(torch.linspace(OUTERMOST, 0.5, count + 1)[:-1].double()).float()


@cache
def _pairs(device: torch.device) -> Tensor:
    """What each byte of two codes stands for, both float32 in one int64: (256,)."""
    levels = nf4_levels().to(device)
    return torch.cartesian_prod(levels, levels).view(torch.int64).flatten()


@dataclass(frozen=True, eq=False)
class NF4Matrix:
    """A matrix (rows, columns) in NF4, its weights one behind the other whatever the rows' ends.

    codes   uint8 (blocks, 32): two weights a byte, the first in the high bits
    scales  of the blocks
    """

    rows: int
    columns: int
    codes: Tensor
    scales: DynamicCodes

    @classmethod
    def quantise(cls, values: Tensor) -> Self:
        """values (rows, columns) of any float dtype. ValueError for what is not finite."""
        if not values.isfinite().all():
            raise ValueError("weights to quantise must be finite, got inf or nan: the model has diverged")
        parts, largest = scaled(in_blocks(values.detach().float(), BLOCK))
        codes = nearest_level(parts, nf4_levels().to(values.device))  # (blocks, 64)
        rows, columns = values.shape
        return cls(rows, columns, codes[:, ::2] << 4 | codes[:, 1::2], DynamicCodes.quantise(largest))

    def dequantise(self, first: int = 0, last: int | None = None) -> Tensor:
        """Rows first to last - 1, all by default, as float32 (rows, columns)."""
        last = self.rows if last is None else last
        start, stop = first * self.columns, last * self.columns
        begin, end = start // BLOCK, -(-stop // BLOCK)  # blocks
        pairs = _pairs(self.codes.device).index_select(0, self.codes[begin:end].flatten().int())
        values = pairs.view(torch.float32).view(-1, BLOCK).mul_(self.scales.dequantise(begin, end).unsqueeze(1))
        return values.flatten()[start - begin * BLOCK : stop - begin * BLOCK].view(last - first, self.columns)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        return self.codes.nbytes + self.scales.nbytes

    @property
    def scale_bits(self) -> float:
        """Bits that the scales take for each weight."""
        return 8 * self.scales.nbytes / (self.rows * self.columns)
