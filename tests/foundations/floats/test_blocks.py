"""Block formats against the specification's steps, carried out with ml_dtypes' types."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.foundations.floats.blocks import encode_mx, encode_nvfp4, relative_error
from vesalius.foundations.floats.format import FORMATS

ELEMENTS = {
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
SEEDS = st.integers(0, 2**32 - 1)


def spread_rows(seed: int) -> np.ndarray:
    """float32 (3, 64) whose blocks are of very different size; some numbers are 0."""
    generator = np.random.default_rng(seed)
    sizes = np.repeat(2.0 ** generator.integers(-20, 20, (3, 4)), 16, -1)
    return (generator.normal(size=(3, 64)) * sizes * (generator.random((3, 64)) > 0.1)).astype(np.float32)


@pytest.mark.parametrize("name", ELEMENTS)
@given(SEEDS)
def test_mx_is_the_specification_bit_for_bit(name, seed):
    """OCP MX 1.0, 6.3: X = 2^(floor(log2(max)) - emax), as E8M0; P_i = V_i / X, clamped to the largest."""
    x, limits = spread_rows(seed), ml_dtypes.finfo(ELEMENTS[name])
    largest = np.abs(x).reshape(3, 2, 32).max(-1).astype(np.float64)
    scales = np.exp2(np.floor(np.log2(largest)) - np.floor(np.log2(float(limits.max))))
    stored = scales.astype(ml_dtypes.float8_e8m0fnu)
    clamped = np.clip(x / np.repeat(stored.astype(np.float64), 32, -1), float(limits.min), float(limits.max))
    elements = clamped.astype(np.float32).astype(ELEMENTS[name])
    ours = encode_mx(x, FORMATS[name])
    np.testing.assert_array_equal(ours.scale_patterns, stored.view(np.uint8))
    np.testing.assert_array_equal(ours.patterns, elements.view(np.uint8))
    decoded = elements.astype(np.float64) * np.repeat(stored.astype(np.float64), 32, -1)
    np.testing.assert_array_equal(ours.decode(), decoded)


@given(SEEDS)
def test_nvfp4_is_two_levels_of_ml_dtypes_casts(seed):
    x = spread_rows(seed).astype(np.float64)
    largest = np.abs(x).reshape(3, 4, 16).max(-1)
    tensor_scale = float(np.float32(largest.max() / (6 * 448)))
    stored = np.minimum(largest / 6 / tensor_scale, 448).astype(ml_dtypes.float8_e4m3fn)
    scales = stored.astype(np.float64) * tensor_scale
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(np.repeat(scales, 16, -1) > 0, x / np.repeat(scales, 16, -1), 0 * x)
    elements = np.clip(scaled, -6, 6).astype(ml_dtypes.float4_e2m1fn)
    ours = encode_nvfp4(x)
    np.testing.assert_array_equal(ours.scale_patterns, stored.view(np.uint8))
    np.testing.assert_array_equal(ours.decode(), elements.astype(np.float64) * np.repeat(scales, 16, -1))


@pytest.mark.parametrize("name", ELEMENTS)
def test_blocks_of_zeros_stay_zeros(name):
    assert (encode_mx(np.zeros((2, 32)), FORMATS[name]).decode() == 0).all()
    assert (encode_nvfp4(np.zeros((2, 32))).decode() == 0).all()


def test_sizes_are_those_of_the_formats_names():
    x = np.random.default_rng(0).normal(size=(4, 64))
    assert encode_mx(x, FORMATS["fp4_e2m1"]).bits_per_number == 4.25
    assert encode_nvfp4(x).bits_per_number == 4.5


def test_a_finer_scale_pays_for_its_half_bit():
    x = np.random.default_rng(0).normal(size=(64, 256))
    mx, nv = encode_mx(x, FORMATS["fp4_e2m1"]).decode(), encode_nvfp4(x).decode()
    assert relative_error(x, nv) < relative_error(x, mx) < 0.15


def test_an_outlier_costs_its_own_block_alone():
    x = np.random.default_rng(0).normal(size=64)
    outlier = x.copy()
    outlier[0] = 1000
    with_it, without = (encode_mx(row, FORMATS["fp4_e2m1"]).decode() for row in (outlier, x))
    np.testing.assert_array_equal(with_it[32:], without[32:])
    assert (with_it[1:32] == 0).all()


@pytest.mark.parametrize("x", [np.zeros(33), np.full(32, np.nan)])
def test_what_does_not_fit_is_refused(x):
    with pytest.raises(ValueError, match="rows must be finite and a multiple of 32 long"):
        encode_mx(x, FORMATS["fp4_e2m1"])
