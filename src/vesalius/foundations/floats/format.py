"""What a floating-point format is: which numbers its bit patterns stand for.

A pattern is a sign, an exponent field e and a mantissa field f of m bits. It stands for

    ±2^(e - bias) (1 + f / 2^m)      a normal number
    ±2^(1 - bias) (f / 2^m)          where e = 0: a subnormal number, as far apart as the smallest normal ones

so the numbers of one sign, in order, have the patterns 0, 1, 2, … in order. What the patterns with the largest exponent
mean is where formats differ: IEEE 754 spends them all on infinity and NaN; FP8 E4M3 gives up infinity and all NaNs but
one, to reach 448 instead of 240; FP6 and FP4 have neither.

Sources: IEEE 754-2019, section 3.4; Micikevicius et al. 2022, arXiv:2209.05433, table 1 (FP8); OCP Microscaling Formats
1.0, section 5.3 (FP6, FP4). Left out: formats without negative zero (FNUZ), decimal formats, posits.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bits = NDArray[np.uint64]
Floats = NDArray[np.float64]


class Specials(Enum):
    """What the largest exponent field is spent on."""

    INFINITY_AND_NAN = "f = 0 is infinity, all others NaN"
    ONE_NAN = "all bits set is NaN, the others are numbers"
    NONE = "all are numbers"


@dataclass(frozen=True, kw_only=True)
class FloatFormat:
    """A format of 1 + exponent_bits + mantissa_bits bits, of at most 64."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    specials: Specials = Specials.INFINITY_AND_NAN

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def least_exponent(self) -> int:
        """Of the normal numbers; subnormal ones share it."""
        return 1 - self.bias

    @property
    def sign_bit(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def largest_pattern(self) -> int:
        """Of the largest finite number: the one before infinity, before NaN, or the last of all."""
        last = self.sign_bit - 1
        spent = {Specials.INFINITY_AND_NAN: 1 << self.mantissa_bits, Specials.ONE_NAN: 1, Specials.NONE: 0}
        return last - spent[self.specials]

    @property
    def largest(self) -> float:
        return float(self.decode(self.largest_pattern))

    @property
    def smallest_normal(self) -> float:
        return 2.0**self.least_exponent

    @property
    def smallest(self) -> float:
        """The smallest number above 0, which is subnormal."""
        return 2.0 ** (self.least_exponent - self.mantissa_bits)

    @property
    def epsilon(self) -> float:
        """From 1 to the next number. Rounding to the nearest is off by at most half of it, relative to the result."""
        return 2.0**-self.mantissa_bits

    def decode(self, patterns: ArrayLike) -> Floats:
        """Bit patterns (…), unsigned -> (…) the numbers they stand for, exact in float64.

        ValueError where a pattern has more bits than the format.

        >>> float(FORMATS["fp8_e4m3"].decode(0b0_1111_110))
        448.0
        """
        patterns = np.asarray(patterns, dtype=np.uint64)
        if self.bits < 64 and (patterns >> np.uint64(self.bits)).any():
            raise ValueError(f"{self.name} has {self.bits} bits, got the pattern {patterns.max():#x}")
        magnitude = patterns & np.uint64(self.sign_bit - 1)
        exponent = (magnitude >> np.uint64(self.mantissa_bits)).astype(np.int64)
        fraction = (magnitude & np.uint64((1 << self.mantissa_bits) - 1)).astype(np.int64)
        normal = exponent > 0
        whole = fraction + (normal.astype(np.int64) << self.mantissa_bits)
        special = magnitude > self.largest_pattern
        whole = np.where(special, 0, whole)
        numbers = np.ldexp(whole.astype(np.float64), np.maximum(exponent, 1) - self.bias - self.mantissa_bits)
        infinite = special & (fraction == 0) & (self.specials is Specials.INFINITY_AND_NAN)
        numbers = np.where(special, np.where(infinite, np.inf, np.nan), numbers)
        return np.where(patterns & np.uint64(self.sign_bit), -numbers, numbers)

    def ulp(self, x: ArrayLike) -> Floats:
        """The distance between the numbers of the format where x is: a unit in the last place. NaN where x is special.

        >>> float(FORMATS["bf16"].ulp(300.0))  # between 256 and 512 lie 2^7 numbers
        2.0
        """
        x = np.asarray(x, dtype=np.float64)
        return np.where(np.isfinite(x), np.ldexp(1.0, self.last_place(x)), np.nan)

    def last_place(self, x: Floats) -> NDArray[np.int64]:
        """The power of two that the last bit of x stands for."""
        exponent = np.frexp(x)[1].astype(np.int64) - 1
        return np.where(x == 0, self.least_exponent, np.maximum(exponent, self.least_exponent)) - self.mantissa_bits


def _format(name: str, exponent_bits: int, mantissa_bits: int, specials: Specials) -> FloatFormat:
    return FloatFormat(name=name, exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, specials=specials)


FORMATS = {
    format.name: format
    for format in (
        _format("fp64", 11, 52, Specials.INFINITY_AND_NAN),
        _format("fp32", 8, 23, Specials.INFINITY_AND_NAN),
        _format("tf32", 8, 10, Specials.INFINITY_AND_NAN),
        _format("fp16", 5, 10, Specials.INFINITY_AND_NAN),
        _format("bf16", 8, 7, Specials.INFINITY_AND_NAN),
        _format("fp8_e5m2", 5, 2, Specials.INFINITY_AND_NAN),
        _format("fp8_e4m3", 4, 3, Specials.ONE_NAN),
        _format("fp6_e3m2", 3, 2, Specials.NONE),
        _format("fp6_e2m3", 2, 3, Specials.NONE),
        _format("fp4_e2m1", 2, 1, Specials.NONE),
    )
}
"""The formats in which models are trained and served, widest first."""
