"""NF4: the published levels, bitsandbytes' codes and weights, the stated error, 0.127 bits a weight for scales."""

import bitsandbytes.functional as peer
import pytest
import torch
from scipy.stats import norm

from vesalius.compress.dynamic_codes import BLOCK as SCALES_BLOCK
from vesalius.compress.nf4 import BLOCK, NF4Matrix, nf4_levels

PUBLISHED = [  # appendix E of the paper
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def weights(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * columns)) * 0.05


def theirs(values):
    """The codes of bitsandbytes, and the weights that it makes of codes and scales."""
    codes, _ = peer.quantize_4bit(values, blocksize=BLOCK, quant_type="nf4")
    dequantise = torch.ops.bitsandbytes.dequantize_4bit.default
    return codes, lambda scales: dequantise(codes, scales, BLOCK, "nf4", values.shape, torch.float32)


def test_the_levels_are_the_published_table():
    assert torch.equal(nf4_levels(), torch.tensor(PUBLISHED))


def test_the_levels_cut_the_normal_distribution_evenly():
    """Each level but the outermost stands for about a sixteenth of the distribution."""
    levels = nf4_levels().double() * norm.ppf(1 - (1 / 32 + 1 / 30) / 2)
    middles = (levels[:-1] + levels[1:]) / 2
    shares = torch.tensor(norm.cdf(middles.numpy())).diff()
    assert ((shares > 1 / 18) & (shares < 1 / 14)).all()


@pytest.mark.parametrize("shape", [(128, 192), (96, 64), (300, 576)])
def test_codes_and_weights_are_those_of_bitsandbytes(shape):
    values = weights(*shape)
    ours, (codes, dequantise) = NF4Matrix.quantise(values), theirs(values)
    assert torch.equal(ours.codes.flatten(), codes.flatten())
    assert torch.equal(ours.dequantise(), dequantise(ours.scales.dequantise()))


@pytest.mark.parametrize("shape", [(7, 30), (1, 5), (33, 100)])
def test_rows_need_not_be_whole_blocks(shape):
    values = weights(*shape)
    ours, (_, dequantise) = NF4Matrix.quantise(values), theirs(values)
    torch.testing.assert_close(ours.dequantise(), dequantise(ours.scales.dequantise()), atol=0, rtol=1e-6)
    assert torch.equal(ours.dequantise(1, shape[0]), ours.dequantise()[1:])


def test_no_weight_moves_further_than_stated():
    values = weights(256, 512)
    error = (NF4Matrix.quantise(values).dequantise() - values).abs().view(-1, BLOCK)
    scales = values.abs().view(-1, BLOCK).amax(1)
    steps = (scales - scales.mean()).abs().view(-1, SCALES_BLOCK).amax(1).repeat_interleave(SCALES_BLOCK)
    assert (error.amax(1) <= 0.152 * scales + 0.0071 * steps).all()
    assert error.max() > 0.12 * scales.min()  # the bound says something


def test_zeros_stay_exact():
    values = weights(64, 64)
    values[3], values[:, 5] = 0, 0
    back = NF4Matrix.quantise(values).dequantise()
    assert not back[3].any()
    assert not back[:, 5].any()


def test_scales_take_an_eighth_of_a_bit_a_weight():
    """8/64 + 32/(64 · 256) and the one mean."""
    matrix = NF4Matrix.quantise(weights(1536, 576))
    assert matrix.scale_bits == pytest.approx(8 / 64 + 32 / (64 * 256), abs=1e-4)
    assert f"{matrix.scale_bits:.3f}" == "0.127"
    assert 8 * matrix.nbytes / (1536 * 576) == pytest.approx(4.127, abs=1e-4)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="must be finite"):
        NF4Matrix.quantise(torch.tensor([[1.0, float("nan")]]))
