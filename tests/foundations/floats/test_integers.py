"""Affine integers against torch's fake quantisation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vesalius.foundations.floats.integers import fit_affine

ROWS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@given(ROWS)
def test_one_scale_a_tensor_is_torchs(bits, symmetric, x):
    format = fit_affine(x, bits, symmetric=symmetric)
    theirs = torch.fake_quantize_per_tensor_affine(
        torch.from_numpy(x), float(format.scale.item()), format.zero_point.item(), format.lowest, format.highest
    )
    np.testing.assert_array_equal(format.decode(format.encode(x)), theirs.numpy())


@pytest.mark.parametrize("bits", [4, 8])
@given(ROWS)
def test_one_scale_a_row_is_torchs(bits, x):
    format = fit_affine(x, bits, axis=-1)
    theirs = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(x), torch.from_numpy(format.scale[:, 0]), torch.from_numpy(format.zero_point[:, 0]), 0,
        format.lowest, format.highest,
    )  # fmt: skip
    np.testing.assert_array_equal(format.decode(format.encode(x)), theirs.numpy())


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@given(ROWS)
def test_zero_is_kept_and_no_number_is_off_by_more_than_half_a_step(bits, symmetric, x):
    x[0, 0] = 0
    format = fit_affine(x, bits, axis=-1, symmetric=symmetric)
    decoded = format.decode(format.encode(x))
    assert decoded[0, 0] == 0
    ends = 0.5 if symmetric else 1  # a rounded zero point may move an end out of range by half a step
    rounding = 4 * 2**bits * np.finfo(np.float32).eps / 2  # of the four operations in float32, in steps
    assert (np.abs(decoded - x) <= format.scale * (ends + rounding)).all()


def test_a_symmetric_format_negates_for_nothing():
    x = np.float32([-3, -1, 2])
    format = fit_affine(x, 8, symmetric=True)
    np.testing.assert_array_equal(format.encode(-x), -format.encode(x))


@pytest.mark.parametrize(("x", "bits"), [([1.0, np.inf], 8), ([1.0], 1), ([1.0], 17)])
def test_what_does_not_fit_is_refused(x, bits):
    with pytest.raises(ValueError, match="2 to 16 bits and finite numbers"):
        fit_affine(np.float32(x), bits)
