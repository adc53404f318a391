"""Every format unpacks to the same bits as the gguf package does, whatever bytes stand in the blocks."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.kernels.block_formats import FORMATS, VALUES_AT_ONCE, BlockTensor

SCALE_BYTES = {"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "q4_1": (0, 2), "q5_1": (0, 2)}
"""Where half-precision numbers stand in a block, where that is not only at its start."""

SPECIAL_HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01]
"""Zeros, subnormals, the largest, infinities and nan."""


def gguf_values(rows: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[name.upper()])


def assert_same_bits(ours: torch.Tensor, theirs: np.ndarray) -> None:
    assert ours.dtype == torch.float32
    assert tuple(ours.shape) == theirs.shape
    ours_nan = np.isnan(ours.numpy())
    np.testing.assert_array_equal(ours_nan, np.isnan(theirs))  # which nan it is may differ, where they are may not
    np.testing.assert_array_equal(ours.numpy().view(np.int32)[~ours_nan], theirs.view(np.int32)[~ours_nan])


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), shape=st.lists(st.integers(1, 3), max_size=2), blocks=st.integers(1, 5))
def test_random_bytes_unpack_to_the_same_bits(name, seed, shape, blocks):
    rows = np.random.default_rng(seed).integers(0, 256, (*shape, blocks * FORMATS[name].block_bytes), np.uint8)
    assert_same_bits(FORMATS[name].dequantise(torch.from_numpy(rows)), gguf_values(rows, name))


@pytest.mark.parametrize("special", SPECIAL_HALVES, ids=hex)
@pytest.mark.parametrize("name", FORMATS)
def test_special_scales_unpack_to_the_same_bits(name, special):
    rows = np.random.default_rng(special).integers(0, 256, (4, FORMATS[name].block_bytes), np.uint8)
    for place in SCALE_BYTES.get(name, (0,)):
        rows[:2, place : place + 2] = special & 255, special >> 8
    assert_same_bits(FORMATS[name].dequantise(torch.from_numpy(rows)), gguf_values(rows, name))


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_larger_than_one_piece_unpack_to_the_same_bits(name):
    count = VALUES_AT_ONCE // FORMATS[name].block_size + 3
    rows = np.random.default_rng(0).integers(0, 256, (3, count * FORMATS[name].block_bytes), np.uint8)[:, ::1]
    assert_same_bits(FORMATS[name].dequantise(torch.from_numpy(rows)), gguf_values(rows, name))


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_may_begin_anywhere_and_rows_may_lie_apart(name):
    wide = np.random.default_rng(1).integers(0, 256, (5, 3 * FORMATS[name].block_bytes + 1), np.uint8)
    shifted = torch.from_numpy(wide)[::2, 1:]
    assert_same_bits(FORMATS[name].dequantise(shifted), gguf_values(np.ascontiguousarray(wide[::2, 1:]), name))


@pytest.mark.parametrize("name", FORMATS)
def test_no_rows_unpack_to_no_rows(name):
    assert FORMATS[name].dequantise(torch.empty(0, FORMATS[name].block_bytes, dtype=torch.uint8)).shape == (
        0,
        FORMATS[name].block_size,
    )


@pytest.mark.parametrize("name", FORMATS)
def test_sizes_are_those_of_the_format(name):
    kind = gguf.GGMLQuantizationType[name.upper()]
    assert (FORMATS[name].block_size, FORMATS[name].block_bytes) == gguf.GGML_QUANT_SIZES[kind]


@pytest.mark.parametrize("name", [name for name, kind in FORMATS.items() if kind.block_size > 1])
def test_bytes_that_are_not_whole_blocks_are_refused(name):
    with pytest.raises(ValueError, match=f"whole blocks of {FORMATS[name].block_bytes} bytes, got 7"):
        FORMATS[name].dequantise(torch.zeros(7, dtype=torch.uint8))


def test_float32_is_unpacked_without_a_copy():
    values = torch.arange(6.0).view(2, 3)
    unpacked = BlockTensor.quantise(values, "f32").dequantise()
    assert unpacked.data_ptr() == values.data_ptr()
