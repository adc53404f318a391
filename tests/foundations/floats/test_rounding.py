"""Rounding against ml_dtypes, NumPy and torch: every number, every middle between two, and just beside the middles."""

import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesalius.foundations.floats.format import FORMATS, FloatFormat, Specials
from vesalius.foundations.floats.rounding import Rounding, encode, round_to

DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
TORCH = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e4m3": torch.float8_e4m3fn,
}
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)


def hard_numbers(format: FloatFormat) -> np.ndarray:
    """float32: all numbers of the format, the middles between neighbours, those just beside, and what is too large."""
    numbers = format.decode(np.arange(format.largest_pattern + 1)).astype(np.float32)
    middles = ((numbers[:-1].astype(np.float64) + numbers[1:]) / 2).astype(np.float32)
    last = np.float32(format.largest + format.ulp(format.largest) / 2)
    near = np.concatenate([numbers, middles, [last]])
    beside = [np.nextafter(near, np.float32(direction)) for direction in (-np.inf, np.inf)]
    positive = np.concatenate([near, *beside, np.float32([1e30, np.inf])])
    return np.concatenate([positive, -positive])


def patterns_of(numbers: np.ndarray, name: str) -> np.ndarray:
    """The oracle's cast."""
    with np.errstate(over="ignore"):
        cast = numbers.astype(DTYPES[name])
    return cast.view(np.uint8 if cast.dtype.itemsize == 1 else np.uint16).astype(np.uint64)


@pytest.mark.parametrize("name", DTYPES)
def test_the_nearest_of_every_hard_number_is_ml_dtypes(name):
    x = hard_numbers(FORMATS[name])
    np.testing.assert_array_equal(encode(x, FORMATS[name]), patterns_of(x, name))


@pytest.mark.parametrize("name", TORCH)
def test_the_nearest_of_every_hard_number_is_torchs(name):
    """torch saturates where a format has no infinity."""
    x = hard_numbers(FORMATS[name])
    theirs = torch.from_numpy(x).to(TORCH[name]).double().numpy()
    np.testing.assert_array_equal(round_to(x, FORMATS[name], saturate=name == "fp8_e4m3"), theirs)


@pytest.mark.parametrize("name", DTYPES)
@given(st.lists(st.floats(allow_nan=False, width=32), min_size=1))
def test_the_nearest_of_any_float32_is_ml_dtypes(name, values):
    x = np.array(values, dtype=np.float32)
    np.testing.assert_array_equal(encode(x, FORMATS[name]), patterns_of(x, name))


@pytest.mark.parametrize(("name", "dtype"), [("fp16", np.float16), ("fp32", np.float32), ("fp64", np.float64)])
@given(x=st.floats(allow_nan=False))
def test_the_nearest_of_any_float64_is_numpys(name, dtype, x):
    with np.errstate(over="ignore"):
        expected = np.float64(x).astype(dtype)
    assert int(encode(x, FORMATS[name])) == int(expected.view(f"u{expected.itemsize}"))


@given(st.floats(allow_nan=False, width=32))
def test_tf32_drops_13_bits_of_a_float32_to_nearest_even(x):
    bits = int(np.float32(x).view(np.uint32))
    rounded = bits if math.isinf(x) else bits + 0xFFF + (bits >> 13 & 1)  # the carry may reach infinity
    assert int(encode(np.float32(x), FORMATS["tf32"])) == rounded >> 13


@pytest.mark.parametrize("name", DTYPES)
def test_every_number_of_a_format_keeps_its_pattern(name):
    format = FORMATS[name]
    magnitudes = np.arange(format.largest_pattern + 1)
    patterns = np.concatenate([magnitudes, magnitudes + format.sign_bit])
    for rounding in Rounding:
        coded = encode(format.decode(patterns), format, rounding, generator=np.random.default_rng(0))
        np.testing.assert_array_equal(coded, patterns)


@pytest.mark.parametrize("name", DTYPES)
@given(x=FINITE)
def test_towards_zero_is_the_last_number_not_beyond(name, x):
    numbers = FORMATS[name].decode(np.arange(FORMATS[name].largest_pattern + 1))
    expected = math.copysign(numbers[np.searchsorted(numbers, abs(x), side="right") - 1], x)
    assert round_to(x, FORMATS[name], Rounding.ZERO) == expected


@pytest.mark.parametrize("name", DTYPES)
@given(x=FINITE, seed=st.integers(0, 1000))
def test_stochastic_rounding_gives_a_neighbour(name, x, seed):
    format = FORMATS[name]
    x = math.fmod(x, format.largest)
    below = round_to(x, format, Rounding.ZERO)
    rounded = round_to(x, format, Rounding.STOCHASTIC, generator=np.random.default_rng(seed))
    assert rounded in (below, below + math.copysign(format.ulp(x), x))


@pytest.mark.parametrize("name", DTYPES)
def test_the_mean_of_stochastic_rounding_is_the_number(name):
    format, n = FORMATS[name], 100_000
    x = 1 + 0.3 * format.epsilon
    rounded = round_to(np.full(n, x), format, Rounding.STOCHASTIC, generator=np.random.default_rng(0))
    error = 5 * format.epsilon * math.sqrt(0.3 * 0.7 / n)  # five standard deviations of a Bernoulli mean
    assert rounded.mean() == pytest.approx(x, rel=0, abs=error)


def test_small_updates_survive_stochastic_rounding_alone():
    """A thousand steps of a tenth of an ulp: the sum is 2 to within a third, or nothing happens."""
    format, generator = FORMATS["bf16"], np.random.default_rng(0)
    nearest = stochastic = np.ones(100)
    for _ in range(1000):
        nearest = round_to(nearest + 0.1 * format.epsilon, format)
        stochastic = round_to(stochastic + 0.1 * format.epsilon, format, Rounding.STOCHASTIC, generator=generator)
    assert (nearest == 1).all()
    assert stochastic.mean() == pytest.approx(1 + 100 * format.epsilon, rel=0.01)


@pytest.mark.parametrize("name", FORMATS)
def test_saturation_keeps_to_the_largest(name):
    format = FORMATS[name]
    rounded = round_to([np.inf, -np.inf, format.largest], format, saturate=True)
    assert rounded.tolist() == [format.largest, -format.largest, format.largest]


@pytest.mark.parametrize("name", FORMATS)
def test_nan_stays_nan_or_is_refused(name):
    format = FORMATS[name]
    if format.specials is Specials.NONE:
        with pytest.raises(ValueError, match=f"{name} has no NaN"):
            encode([1.0, np.nan], format)
    else:
        assert np.isnan(round_to([1.0, np.nan], format)).tolist() == [False, True]


@pytest.mark.parametrize("name", FORMATS)
def test_zero_keeps_its_sign(name):
    assert np.signbit(round_to([0.0, -0.0], FORMATS[name])).tolist() == [False, True]


def test_stochastic_rounding_needs_a_generator():
    with pytest.raises(ValueError, match="needs a generator"):
        encode(1.0, FORMATS["bf16"], Rounding.STOCHASTIC)
