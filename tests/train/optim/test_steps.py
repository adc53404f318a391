"""Each optimizer by hand against code from elsewhere: 25 steps on the same gradients, every weight within 1e-6."""

import copy

import lion_pytorch
import pytest
import torch

from vesalius.train.optim.adam import Adam
from vesalius.train.optim.lion import Lion
from vesalius.train.optim.sgd import SGD

STEPS = 25
PAIRS = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01}),
    "sgd nesterov": (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (Adam, torch.optim.Adam, {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01}),
    "lion": (Lion, lion_pytorch.Lion, {"lr": 0.003, "betas": (0.9, 0.99), "weight_decay": 0.1}),
}


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in [(7, 5), (5,), (3, 4, 2)]]


def give_gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator) + 0.1 * parameter.detach()


@pytest.mark.parametrize("name", PAIRS)
def test_equals_its_peer(name):
    ours, theirs, settings = PAIRS[name]
    a, b = weights(), weights()
    optimizers = ours(a, **settings), theirs(b, **settings)
    for step in range(STEPS):
        for parameters, optimizer in zip((a, b), optimizers, strict=True):
            give_gradients(parameters, step)
            optimizer.step()
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_goes_on_from_its_state(name):
    ours, _, settings = PAIRS[name]
    a = weights()
    whole = ours(a, **settings)
    for step in range(6):
        if step == 3:
            b = [torch.nn.Parameter(x.detach().clone()) for x in a]
            resumed = ours(b, **settings)
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))  # torch keeps the tensors it is given
        give_gradients(a, step)
        whole.step()
        if step >= 3:
            give_gradients(b, step)
            resumed.step()
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_parameters_without_gradient_stay(name):
    ours, _, settings = PAIRS[name]
    a, before = weights(), weights()
    ours(a, **settings).step()
    assert all(torch.equal(x, y) for x, y in zip(a, before, strict=True))
