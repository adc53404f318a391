"""From a number to a format that does not have it: which neighbour, and what where there is none.

Every rule first measures x in units of the last place of the format: then rounding is rounding to whole numbers, the
same for normal and subnormal numbers, and exact, since powers of two divide without loss.

    nearest      to the closer neighbour, from the middle to the even one, so that errors have no direction
    zero         to the neighbour nearer 0: what truncating bits does
    stochastic   to the upper neighbour with a probability of how near it is: the mean of the results is x

The last keeps alive what the first kills: an update of less than half an ulp, added a thousand times to a weight,
rounds to nothing each time, or to about the right sum on average (Gupta et al. 2015, arXiv:1502.02551, section 3).

Numbers beyond the largest become infinity, NaN in a format without infinities, or the largest in one without both, as
in ml_dtypes; with `saturate` always the largest, as conversions in hardware do, and torch's to E4M3. Towards zero there
is always a neighbour. A NaN without a pattern is refused. Source: IEEE 754-2019, sections 4.3 and 7.4.
"""

from enum import Enum

import numpy as np
from numpy.typing import ArrayLike

from vesalius.foundations.floats.format import Bits, FloatFormat, Floats, Specials


class Rounding(Enum):
    """Which neighbour."""

    NEAREST = "nearest"
    ZERO = "zero"
    STOCHASTIC = "stochastic"


def encode(
    x: ArrayLike,
    format: FloatFormat,
    rounding: Rounding = Rounding.NEAREST,
    *,
    generator: np.random.Generator | None = None,
    saturate: bool = False,
) -> Bits:
    """x (…) -> (…) bit patterns of the format. A NaN gets the pattern of a positive quiet one.

    ValueError where a NaN meets a format without one, or stochastic rounding has no generator.

    >>> from vesalius.foundations.floats.format import FORMATS
    >>> bin(encode(-1.75, FORMATS["fp4_e2m1"]))  # from between 1.5 and 2 to the even one
    '0b1100'
    """
    x = np.asarray(x, dtype=np.float64)
    units = _whole_units(x, format, rounding, generator)
    # A normal number's units include the bit that patterns leave out: it raises the exponent field by the missing one.
    exponent = format.last_place(_finite(x)) + format.mantissa_bits - format.least_exponent
    magnitude = (exponent.astype(np.uint64) << np.uint64(format.mantissa_bits)) + units.astype(np.uint64)
    over = (magnitude > format.largest_pattern) | np.isinf(x)
    magnitude = np.where(over, _beyond(x, format, rounding, saturate), magnitude)
    patterns = np.where(np.signbit(x), magnitude | np.uint64(format.sign_bit), magnitude)
    return np.where(np.isnan(x), np.uint64(_nan(x, format)), patterns)


def round_to(
    x: ArrayLike,
    format: FloatFormat,
    rounding: Rounding = Rounding.NEAREST,
    *,
    generator: np.random.Generator | None = None,
    saturate: bool = False,
) -> Floats:
    """x (…) -> (…) float64: the numbers of the format that `encode` chooses, and its errors."""
    return format.decode(encode(x, format, rounding, generator=generator, saturate=saturate))


def _finite(x: Floats) -> Floats:
    return np.where(np.isfinite(x), x, 0.0)


def _whole_units(x: Floats, format: FloatFormat, rounding: Rounding, generator: np.random.Generator | None) -> Floats:
    """|x| in units of its last place in the format, made whole; 0 for what is not finite."""
    finite = np.abs(_finite(x))
    units = np.ldexp(finite, -format.last_place(finite))
    if rounding is Rounding.NEAREST:
        return np.rint(units)
    if rounding is Rounding.ZERO:
        return np.floor(units)
    if generator is None:
        raise ValueError("stochastic rounding needs a generator: pass generator=np.random.default_rng(seed)")
    whole = np.floor(units)
    return whole + (generator.random(x.shape) < units - whole)


def _beyond(x: Floats, format: FloatFormat, rounding: Rounding, saturate: bool) -> Bits:
    """Patterns of what is too large, without sign."""
    largest = np.full(x.shape, format.largest_pattern, dtype=np.uint64)
    if saturate or format.specials is Specials.NONE:
        return largest
    next_pattern = largest + np.uint64(1)  # infinity, or the one NaN
    if rounding is Rounding.ZERO:
        return np.where(np.isinf(x), next_pattern, largest)
    return next_pattern


def _nan(x: Floats, format: FloatFormat) -> int:
    if format.specials is Specials.ONE_NAN:
        return format.sign_bit - 1
    if format.specials is Specials.NONE and np.isnan(x).any():
        raise ValueError(f"{format.name} has no NaN, got one: look where it comes from before rounding")
    return format.largest_pattern + 1 + (1 << (format.mantissa_bits - 1))
