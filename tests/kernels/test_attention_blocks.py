"""Attention in blocks of queries equals the reference, forward and backward."""

import pytest
import torch

from vesalius.kernels import attention
from vesalius.kernels.attention_blocks import BLOCK, blocks

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-2}


def tensors(T, S, dtype, kv_heads=2):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, T, 8), (2, kv_heads, S, 8), (2, kv_heads, S, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def assert_equal_to_the_reference(inputs, **settings):
    cotangent = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)
    ours, truth = blocks(*inputs, **settings), attention.reference(*inputs, **settings)
    tolerance = TOLERANCE[inputs[0].dtype]
    torch.testing.assert_close(ours, truth, atol=tolerance, rtol=tolerance)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(truth, inputs, cotangent), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=2 * tolerance, rtol=2 * tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("T", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_causal(T, dtype):
    assert_equal_to_the_reference(tensors(T, T, dtype))


def test_causal_behind_earlier_keys():
    assert_equal_to_the_reference(tensors(BLOCK + 3, BLOCK + 20, torch.float32))


def test_values_of_another_width():
    q, k, _ = tensors(BLOCK + 1, BLOCK + 1, torch.float32)
    v = torch.randn(2, 2, BLOCK + 1, 5, generator=torch.Generator().manual_seed(2)).requires_grad_()
    ours, truth = blocks(q, k, v), attention.reference(q, k, v)
    torch.testing.assert_close(ours, truth, atol=2e-6, rtol=2e-6)
    for mine, theirs in zip(
        torch.autograd.grad(ours.sum(), (q, k, v)), torch.autograd.grad(truth.sum(), (q, k, v)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_everything_may_be_read(kv_heads):
    assert_equal_to_the_reference(tensors(9, 13, torch.float32, kv_heads), causal=False)


@pytest.mark.parametrize("causal", [False, True])
def test_documents_are_kept_apart(causal):
    T = 2 * BLOCK
    positions = torch.cat((torch.arange(50), torch.arange(T - 50))).expand(2, T)
    assert_equal_to_the_reference(tensors(T, T, torch.float32), causal=causal, mask=attention.document_mask(positions))
