"""Packing loses nothing: blocks come back bit for bit, and values are those of the readable dequantiser."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantised_blocks import HALVES, random_blocks

from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.native.interface import available
from vesalius.kernels.packing import pack

LAYOUTS = [False, True] if available() else [False]


@pytest.mark.parametrize("tiles", LAYOUTS)
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(HALVES)), st.integers(1, 50), st.integers(1, 3), st.integers(0, 1000))
def test_blocks_come_back_bit_for_bit(tiles, format, rows, supers, seed):
    blocks = random_blocks(format, rows, 256 * supers, seed)
    packed = pack(blocks, tiles=tiles)
    assert torch.equal(packed.blocks().blocks, blocks.blocks)
    assert packed.blocks().shape == blocks.shape


@pytest.mark.parametrize("tiles", LAYOUTS)
@pytest.mark.parametrize("format", HALVES)
def test_values_are_those_of_the_readable_dequantiser(format, tiles):
    blocks = random_blocks(format, 37, 512)
    packed, values = pack(blocks, tiles=tiles), blocks.dequantise()
    assert torch.equal(packed.dequantise(), values)
    assert torch.equal(packed.dequantise(5, 20), values[5:20])
    assert packed.dequantise(7, 7).shape == (0, 512)
    ids = torch.tensor([[36, 0, 5], [5, 16, 15]])
    assert torch.equal(packed.gather(ids), values[ids])
    assert packed.gather(torch.zeros(0, dtype=torch.int32)).shape == (0, 512)


@pytest.mark.parametrize("tiles", LAYOUTS)
def test_subnormal_and_infinite_scales_are_kept(tiles):
    blocks = random_blocks("q8_0", 4, 32)
    for row, half in enumerate((0x0001, 0x83FF, 0x7C00, 0x0400)):
        blocks.blocks[row, :2] = torch.tensor([half & 255, half >> 8], dtype=torch.uint8)
    packed = pack(blocks, tiles=tiles)
    torch.testing.assert_close(packed.dequantise(), blocks.dequantise(), atol=0, rtol=0, equal_nan=True)
    assert torch.equal(packed.blocks().blocks, blocks.blocks)


@pytest.mark.skipif(not available(), reason="no C++ compiler on this machine")
@pytest.mark.parametrize("format", HALVES)
def test_tiles_are_as_large_as_the_blocks(format):
    blocks = random_blocks(format, 32, 512)
    most = {"q2_k": 1.2, "q3_k": 1.04, "q4_k": 1.03, "q5_k": 1.03}.get(format, 1.0)
    assert blocks.nbytes <= pack(blocks, tiles=True).nbytes <= most * blocks.nbytes


@pytest.mark.parametrize("tiles", LAYOUTS)
def test_rows_that_are_not_there_are_refused(tiles):
    packed = pack(random_blocks("q4_0", 10, 32), tiles=tiles)
    with pytest.raises(IndexError, match="ids must be 0 to 9, got 3 to 10"):
        packed.gather(torch.tensor([3, 10]))
    with pytest.raises(IndexError, match="ids must be 0 to 9, got -1 to -1"):
        packed.gather(torch.tensor([-1]))
    with pytest.raises(IndexError, match="rows 5 to 11 are asked for, the matrix has 10"):
        packed.dequantise(5, 11)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match=r"a matrix \(rows, columns\) is needed, got shape \(2, 3, 32\)"):
        pack(BlockTensor.quantise(torch.ones(2, 3, 32), "q8_0"))
    with pytest.raises(ValueError, match="bf16 is not a quantised format"):
        pack(BlockTensor.quantise(torch.ones(3, 32), "bf16"))
