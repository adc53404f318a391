"""The layer with a change of low rank beside it: one operation gives what three do, forward and backward."""

import pytest
import torch

from vesalius.kernels import low_rank

SCALE = 0.75


def inputs(shape, out=7, rank=3, bias=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def draw(*size, trained=True):
        return torch.randn(size, generator=generator).to(dtype).requires_grad_(trained)

    x, weight = draw(*shape), draw(out, shape[-1], trained=False)
    return x, weight, draw(out, trained=False) if bias else None, draw(rank, shape[-1]), draw(out, rank)


def outcome(function, tensors):
    y = function(*tensors, SCALE)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y, *torch.autograd.grad(y, [t for t in tensors if t is not None and t.requires_grad], cotangent)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 8), (1, 1), (130, 33), (2, 0, 4)])
@pytest.mark.parametrize("impl", low_rank.IMPLS)
def test_every_implementation_equals_the_reference(impl, shape, bias):
    tensors = inputs(shape, bias=bias)
    truths = outcome(low_rank.reference, tensors)
    for ours, truth in zip(outcome(low_rank.IMPLS[impl], tensors), truths, strict=True):
        torch.testing.assert_close(ours, truth, atol=1e-4, rtol=1e-5)


def test_the_gradient_passes_a_numerical_check():
    tensors = inputs((4, 6), bias=True, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: low_rank.fused(*t, SCALE), tensors)


def test_a_cotangent_that_does_not_lie_in_rows():
    tensors = inputs((3, 5, 8))
    ours, truth = (f(*tensors, SCALE).transpose(1, 2).pow(2).sum() for f in (low_rank.fused, low_rank.reference))
    for mine, theirs in zip(*(torch.autograd.grad(y, tensors[0]) for y in (ours, truth)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)


def test_without_a_change_it_is_the_layer_bit_for_bit():
    x, weight, bias, down, up = inputs((70, 33), bias=True)
    y = low_rank.fused(x, weight, bias, down, torch.zeros_like(up), SCALE)
    assert torch.equal(y, low_rank.linear(x, weight, bias))


def test_under_autocast_it_computes_in_its_type_and_gradients_are_the_parameters():
    tensors = inputs((70, 33))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, truth = outcome(low_rank.fused, tensors), outcome(low_rank.reference, tensors)
    assert [t.dtype for t in ours] == [torch.bfloat16] + [torch.float32] * 3
    for mine, theirs in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.02 * theirs.abs().max().item(), rtol=0.02)


def test_only_what_is_wanted_is_computed_back():
    x, weight, _, down, up = inputs((4, 8))
    low_rank.fused(x.detach(), weight, None, down, up.detach(), SCALE).sum().backward()
    assert down.grad is not None
    assert x.grad is up.grad is weight.grad is None


def test_a_layer_that_is_trained_itself_is_refused():
    x, weight, _, down, up = inputs((4, 8))
    with pytest.raises(ValueError, match="must be frozen"):
        low_rank.low_rank_linear(x, weight.requires_grad_(), None, down, up, SCALE)
