"""Numbers in eight bits that are exact where they are small: the dynamic data type. Dettmers et al. 2022,
arXiv:2110.02861, section 1.3, and for block-wise steps section 2.1.

Each decade from 10⁻⁷ to 1 has twice the levels of the one below it, and the levels of a decade are evenly spaced, for
both signs; 0 and 1 are levels too, which makes 256. A block of 256 numbers is divided by its largest magnitude, its
step, and each number is replaced by the nearest level. Near the step levels are 0.014 apart, so no number moves by more
than 0.0071 steps.
"""

from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from torch import Tensor

BLOCK = 256
DECADES = 7


@cache
def dynamic_levels() -> Tensor:
    """The 256 levels in [-1, 1], rising: (256,) float32."""
    decades = [10.0 ** (decade - DECADES + 1) * _middles(2**decade) for decade in range(DECADES)]
    positive = torch.cat(decades)  # (127,)
    return torch.cat((-positive.flip(0), torch.tensor([0.0]), positive, torch.tensor([1.0])))


def _middles(count: int) -> Tensor:
    """The middles of so many even parts of [0.1, 1]: (count,)."""
    bounds = torch.linspace(0.1, 1, count + 1)
    return (bounds[:-1] + bounds[1:]) / 2


def nearest_level(values: Tensor, levels: Tensor) -> Tensor:
    """values (…) in [-1, 1], levels (n,) rising, n ≤ 256 -> the number of the nearest level, uint8 (…); of two equally
    near ones the lower.

    >>> nearest_level(torch.tensor([-0.9, 0.2, 0.5]), torch.tensor([-1.0, 0.0, 1.0]))
    tensor([0, 1, 1], dtype=torch.uint8)
    """
    return torch.bucketize(values, (levels[:-1] + levels[1:]) / 2, out_int32=True).to(torch.uint8)


def in_blocks(values: Tensor, size: int) -> Tensor:
    """values (…) one behind the other in rows: (blocks, size), the last filled up with zeros."""
    flat = values.reshape(-1)
    return torch.nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size)


def scaled(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """blocks (n, size) -> the same divided by the largest magnitude of each, in [-1, 1], and these (n,)."""
    largest = blocks.abs().amax(-1)
    return (blocks * (1 / largest.clamp(min=torch.finfo(blocks.dtype).tiny)).unsqueeze(1)).clamp_(-1, 1), largest


@dataclass(frozen=True, eq=False)
class DynamicCodes:
    """Positive numbers (n,) of similar size, kept as their mean and what they differ from it by.

    codes  uint8 (n,): the number of a level
    steps  float32 (blocks of 256,)
    mean   float32 ()
    """

    codes: Tensor
    steps: Tensor
    mean: Tensor

    @classmethod
    def quantise(cls, values: Tensor) -> Self:
        """float32 (n,), n from 1."""
        mean = values.mean()
        parts, steps = scaled(in_blocks(values - mean, BLOCK))
        codes = nearest_level(parts, dynamic_levels().to(values.device))
        return cls(codes.flatten()[: len(values)].clone(), steps, mean)

    def dequantise(self, first: int = 0, last: int | None = None) -> Tensor:
        """Numbers first to last - 1, all by default, float32."""
        codes = self.codes[first:last]
        places = torch.arange(first, first + len(codes), device=codes.device)
        levels = dynamic_levels().to(codes.device).index_select(0, codes.int())
        return levels.mul_(self.steps.index_select(0, places // BLOCK)).add_(self.mean)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.steps.nbytes + self.mean.nbytes
