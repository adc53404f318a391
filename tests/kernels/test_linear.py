"""The product of a linear layer: oneDNN's equals torch's, joined layers equal separate ones."""

import pytest
import torch
from torch import nn

from vesalius.kernels import linear as kernel

onednn = pytest.param(
    "onednn", marks=pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch comes without oneDNN")
)


def inputs(shape, out, bias):
    generator = torch.Generator().manual_seed(0)
    shapes = [shape, (out, shape[-1]), *([(out,)] if bias else [])]
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


def outcome(function, tensors):
    y = function(*tensors)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y, *torch.autograd.grad(y, tensors, cotangent)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 8), (1, 1), (130, 33), (2, 0, 4)])
@pytest.mark.parametrize("impl", ["reference", onednn])
def test_every_implementation_equals_the_reference(impl, shape, bias):
    tensors = inputs(shape, 7, bias)
    for ours, truth in zip(
        outcome(lambda *t: kernel.linear(*t, impl=impl), tensors), outcome(kernel.reference, tensors), strict=True
    ):
        torch.testing.assert_close(ours, truth, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("impl", ["reference", onednn])
def test_a_frozen_weight_gets_no_gradient(impl):
    x, weight = inputs((4, 8), 3, bias=False)
    y = kernel.linear(x, weight.detach(), impl=impl)
    y.sum().backward()
    assert x.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("rows", [1, 4096])
def test_joined_layers_give_what_each_gives_alone(rows):
    torch.manual_seed(0)
    layers = [nn.Linear(8, width, bias=False) for width in (6, 4, 2)]
    x = torch.randn(rows, 8)
    for joined, layer in zip(kernel.linears(x, layers), layers, strict=True):
        torch.testing.assert_close(joined, layer(x), atol=1e-6, rtol=1e-5)


def test_a_replaced_or_hooked_layer_is_called_itself():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    layers = [Doubled(8, 6, bias=False), nn.Linear(8, 4, bias=False)]
    seen = []
    layers[1].register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(4096, 8)
    first, _ = kernel.linears(x, layers)
    torch.testing.assert_close(first, layers[0](x))
    assert seen


def test_the_choice_works_inside_a_compiled_function():
    x, weight = inputs((256, 16), 8, bias=False)
    compiled = torch.compile(lambda x, w: kernel.linear(x, w).relu(), backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight), kernel.reference(x, weight).relu(), atol=1e-4, rtol=1e-5)
