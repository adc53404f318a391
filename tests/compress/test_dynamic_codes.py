"""Eight-bit codes with a dynamic exponent: bitsandbytes' levels and numbers, and the error that is stated."""

import bitsandbytes.functional as peer
import pytest
import torch

from vesalius.compress.dynamic_codes import BLOCK, DynamicCodes, dynamic_levels


def positive(count):
    return torch.rand(count, generator=torch.Generator().manual_seed(count)) + 0.5


def test_the_levels_are_the_published_ones():
    assert torch.equal(dynamic_levels(), peer.create_dynamic_map())


@pytest.mark.parametrize("count", [BLOCK, 3 * BLOCK, 1000, 2700])
def test_codes_and_numbers_are_those_of_bitsandbytes(count):
    """But between two levels that are nearly as near, where it takes the farther one at times."""
    values = positive(count)
    ours = DynamicCodes.quantise(values)
    codes, state = peer.quantize_blockwise(values - values.mean(), blocksize=BLOCK)
    truth = peer.dequantize_blockwise(codes, state) + values.mean()
    same = ours.codes == codes
    assert same.float().mean() > 0.995
    assert torch.equal(ours.steps, state.absmax)
    assert torch.equal(ours.dequantise()[same], truth[same])
    assert ((ours.dequantise() - values).abs() <= (truth - values).abs() + 1e-7).all()


def test_no_number_moves_further_than_stated():
    values = positive(5 * BLOCK)
    error = (DynamicCodes.quantise(values).dequantise() - values).abs().view(-1, BLOCK)
    steps = (values - values.mean()).abs().view(-1, BLOCK).amax(1, keepdim=True)
    assert (error <= 0.0071 * steps).all()
    assert error.max() > 0.003 * steps.min()  # the bound says something


def test_a_stretch_is_that_of_the_whole():
    codes = DynamicCodes.quantise(positive(1000))
    assert torch.equal(codes.dequantise(200, 700), codes.dequantise()[200:700])


def test_equal_numbers_come_back_exactly():
    assert torch.equal(DynamicCodes.quantise(torch.full((300,), 0.75)).dequantise(), torch.full((300,), 0.75))
