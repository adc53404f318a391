"""Formats against ml_dtypes, NumPy and torch: every bit pattern up to 19 bits, random ones above."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesalius.foundations.floats.format import FORMATS

DTYPES = {
    "fp64": np.float64,
    "fp32": np.float32,
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
SMALL = [name for name in DTYPES if FORMATS[name].bits <= 16]
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def numbers_of(patterns: np.ndarray, name: str) -> np.ndarray:
    """What the oracle takes patterns for."""
    dtype = np.dtype(DTYPES[name])
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return patterns.astype(UNSIGNED[8 * dtype.itemsize]).view(dtype).astype(np.float64)


def assert_identical(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Equal numbers, equal signs of zero, NaN where NaN."""
    np.testing.assert_array_equal(ours, theirs)
    known = ~np.isnan(theirs)
    np.testing.assert_array_equal(np.signbit(ours[known]), np.signbit(theirs[known]))


@pytest.mark.parametrize("name", SMALL)
def test_every_pattern_stands_for_the_oracles_number(name):
    patterns = np.arange(2 ** FORMATS[name].bits)
    assert_identical(FORMATS[name].decode(patterns), numbers_of(patterns, name))


def test_every_tf32_pattern_is_a_float32_with_13_bits_less():
    patterns = np.arange(2**19, dtype=np.uint32)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        expected = (patterns << 13).view(np.float32).astype(np.float64)
    assert_identical(FORMATS["tf32"].decode(patterns), expected)


@pytest.mark.parametrize("name", ["fp32", "fp64"])
@given(data=st.data())
def test_wide_patterns_stand_for_numpys_numbers(name, data):
    bits = FORMATS[name].bits
    patterns = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1)), dtype=np.uint64)
    assert_identical(FORMATS[name].decode(patterns), numbers_of(patterns, name))


@pytest.mark.parametrize("name", DTYPES)
def test_limits_are_ml_dtypes(name):
    ours, theirs = FORMATS[name], ml_dtypes.finfo(DTYPES[name])
    assert ours.largest == float(theirs.max)
    assert ours.smallest_normal == float(theirs.smallest_normal)
    assert ours.smallest == float(theirs.smallest_subnormal)
    assert ours.epsilon == float(theirs.eps)
    assert ours.bits == theirs.bits


@pytest.mark.parametrize(("name", "dtype"), [("fp8_e4m3", torch.float8_e4m3fn), ("fp8_e5m2", torch.float8_e5m2)])
def test_fp8_patterns_are_torchs(name, dtype):
    theirs = torch.arange(256, dtype=torch.uint8).view(dtype).double().numpy()
    assert_identical(FORMATS[name].decode(np.arange(256)), theirs)


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("fp32", np.float32), ("fp64", np.float64)])
@given(data=st.data())
def test_a_unit_in_the_last_place_is_numpys_spacing(name, dtype, data):
    width = np.dtype(dtype).itemsize * 8
    x = data.draw(st.floats(width=width, allow_nan=False, allow_infinity=False))
    if abs(x) < FORMATS[name].largest:  # NumPy asks for the next number, which the last does not have
        assert FORMATS[name].ulp(x) == float(np.spacing(dtype(abs(x))))


@pytest.mark.parametrize("name", SMALL)
def test_a_unit_in_the_last_place_is_the_step_to_the_next_number(name):
    numbers = FORMATS[name].decode(np.arange(FORMATS[name].largest_pattern + 1))
    np.testing.assert_array_equal(FORMATS[name].ulp(numbers[:-1]), np.diff(numbers))


def test_patterns_with_too_many_bits_are_refused():
    with pytest.raises(ValueError, match="fp4_e2m1 has 4 bits, got the pattern 0x10"):
        FORMATS["fp4_e2m1"].decode(16)
