"""mxfp4 in the blocks of another format: the same numbers, bit for bit. What they are: test_dequantise.py."""

import pytest
import torch

from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.block_formats.mxfp4 import mxfp4_as_q5_0
from vesalius.models.families.gpt_oss import unpack_mxfp4


def blocks(least: int, most: int) -> torch.Tensor:
    """(6, 17 · 4) bytes with every code and scales between the two."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.randint(least, most + 1, (6, 4, 1), generator=generator, dtype=torch.uint8)
    codes = torch.randint(256, (6, 4, 16), generator=generator, dtype=torch.uint8)
    return torch.cat([scales, codes], -1).flatten(1)


def test_as_q5_0_every_number_stays():
    stored = BlockTensor.of("mxfp4", blocks(104, 143))  # the scales that half precision holds
    assert torch.equal(BlockTensor.of("q5_0", mxfp4_as_q5_0(stored.blocks)).dequantise(), stored.dequantise())


def test_scales_below_half_precision_become_zero_and_above_it_are_refused():
    tiny = BlockTensor.of("q5_0", mxfp4_as_q5_0(blocks(0, 102))).dequantise()
    assert torch.equal(tiny, torch.zeros(6, 128))
    with pytest.raises(ValueError, match="half precision ends at 65504"):
        mxfp4_as_q5_0(blocks(144, 144))


def test_the_numbers_are_those_of_the_published_directory():
    """There, neighbours share a byte; here, values that are 16 apart."""
    stored = blocks(110, 140).unflatten(1, (4, 17))
    scales, bytes_ = stored[..., 0], stored[..., 1:]
    codes = torch.cat([bytes_ & 15, bytes_ >> 4], -1)  # (6, 4, 32) in the order of the values
    theirs = unpack_mxfp4(codes[..., 0::2] | codes[..., 1::2] << 4, scales)
    assert torch.equal(BlockTensor.of("mxfp4", stored.flatten(1)).dequantise(), theirs + 0.0)
