"""DoRA beside its formula, with the sum of weight and change formed."""

import torch
from adapting import adapted
from torch.nn import functional as F

from vesalius.adapt.dora import Dora
from vesalius.kernels.linear import Linear


def stirred(bias: bool) -> tuple[Linear, Dora, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = Linear(12, 7, bias=bias).requires_grad_(False)
    first, second = (torch.randn(size, generator=generator) for size in ((3, 12), (7, 3)))
    dora = Dora.of(base, first, second, scale=0.5)
    with torch.no_grad():
        dora.lora_magnitude_vector.mul_(torch.rand(7, generator=generator) + 0.5)
    return base, dora, torch.randn(5, 12, generator=generator)


def test_the_change_and_its_gradients_are_those_of_the_formula():
    for bias in (False, True):
        base, dora, x = stirred(bias)
        whole = base.weight + 0.5 * dora.lora_B @ dora.lora_A
        expected = F.linear(
            x, dora.lora_magnitude_vector.unsqueeze(1) * whole / whole.detach().norm(dim=1, keepdim=True)
        )
        found = base(x) + dora(x, base(x), base)
        if bias:
            expected = expected + base.bias
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        parameters = list(dora.parameters())
        theirs = torch.autograd.grad(expected.square().sum(), parameters)
        ours = torch.autograd.grad(found.square().sum(), parameters)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_as_a_change_of_the_weight_it_gives_the_same():
    base, dora, x = stirred(bias=True)
    changed, bias = dora.weight_change(base)
    assert bias is None
    torch.testing.assert_close(F.linear(x, changed), dora(x, base(x), base), rtol=0, atol=1e-5)


def test_dropout_acts_on_what_direction_and_change_read():
    model = adapted("one", kind="dora")
    layer = model.model.layers[0].mlp.up_proj
    dora = layer.adapters["one"]
    dora.dropout.p = 0.5
    x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(0))
    whole = layer(x)
    layer.train()
    torch.manual_seed(3)
    dropped = layer(x)
    torch.manual_seed(3)
    mask = dora.dropout(torch.ones_like(x))
    expected = layer.base(x) + dora.eval()(x * mask, layer.base(x * mask), layer.base)
    torch.testing.assert_close(dropped, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(dropped, whole)
