"""Grouped products: every implementation equals the loop over groups, forward and backward, whatever the groups."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.kernels.grouped_matmul import IMPLS, grouped_matmul, reference

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 6e-2}


def data(sizes, inner=5, outer=7, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), inner, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(len(sizes), outer, inner, generator=generator).to(dtype).requires_grad_()
    return x, weight, torch.tensor(sizes)


def outcome(function, x, weight, sizes):
    """The output and both gradients under a fixed random cotangent."""
    out = function(x, weight, sizes)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return out, *torch.autograd.grad(out, (x, weight), cotangent)


def assert_same(impl, x, weight, sizes):
    tolerance = TOLERANCE[x.dtype]
    ours = outcome(lambda *given: grouped_matmul(*given, impl=impl), x, weight, sizes)
    for one, other in zip(ours, outcome(reference, x, weight, sizes), strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", [[3, 4], [0, 5, 0, 0, 2], [1], [0, 0, 1], [0, 0], [2, 0, 9, 1]])
@pytest.mark.parametrize("impl", IMPLS)
def test_equals_the_loop_over_groups(impl, sizes, dtype):
    assert_same(impl, *data(sizes, dtype=dtype))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    inner=st.integers(1, 9),
    outer=st.integers(1, 9),
    impl=st.sampled_from(sorted(IMPLS)),
)
def test_equals_the_loop_for_any_sizes(sizes, inner, outer, impl):
    assert_same(impl, *data(sizes, inner, outer))


def test_the_reference_multiplies_each_row_by_the_matrix_of_its_group():
    x, weight, sizes = data([2, 0, 3])
    group = [0, 0, 2, 2, 2]
    theirs = torch.einsum("md,mfd->mf", x, weight[group])
    torch.testing.assert_close(reference(x, weight, sizes), theirs, atol=1e-6, rtol=1e-5)


def test_gradients_pass_finite_differences():
    x, weight, sizes = data([2, 0, 1])
    x, weight = (tensor.detach().double().requires_grad_() for tensor in (x, weight))
    assert torch.autograd.gradcheck(lambda a, b: grouped_matmul(a, b, sizes), (x, weight))


def test_a_weight_that_is_frozen_gets_no_gradient():
    x, weight, sizes = data([2, 3])
    grouped_matmul(x, weight.detach(), sizes).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_autocast_computes_in_its_dtype():
    x, weight, sizes = data([2, 3])
    with torch.autocast("cpu", torch.bfloat16):
        out = grouped_matmul(x, weight, sizes)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("x", "weight", "sizes"), [((4, 3), (2, 5, 4), 2), ((4, 3), (2, 5, 3), 3), ((3,), (1, 5, 3), 1)]
)
def test_shapes_that_do_not_fit_are_refused(x, weight, sizes):
    with pytest.raises(ValueError, match="expected rows"):
        grouped_matmul(torch.ones(x), torch.ones(weight), torch.ones(sizes, dtype=torch.int64))
