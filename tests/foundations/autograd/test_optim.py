"""Optimizers against torch's, step by step."""

import numpy as np
import pytest
import torch

from vesalius.foundations.autograd.optim import SGD, AdamW
from vesalius.foundations.autograd.tensor import Tensor

PAIRS = {
    "sgd": (lambda p: SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (lambda p: SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "adamw": (lambda p: AdamW(p, 0.1), lambda p: torch.optim.AdamW(p, 0.1)),
    "adam": (lambda p: AdamW(p, 0.1, weight_decay=0.0), lambda p: torch.optim.Adam(p, 0.1)),
    "settings": (
        lambda p: AdamW(p, 0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, 0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_twenty_steps_are_torchs(name):
    start, targets = np.random.default_rng(0).normal(size=(2, 3, 4))
    ours, theirs = Tensor(start.copy(), requires_grad=True), torch.tensor(start, requires_grad=True)
    optimizer, other = PAIRS[name][0]([ours]), PAIRS[name][1]([theirs])
    for _ in range(20):
        optimizer.zero_grad()
        other.zero_grad()
        ((ours - targets) ** 2).sum().backward()
        ((theirs - torch.from_numpy(targets)) ** 2).sum().backward()
        optimizer.step()
        other.step()
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_a_parameter_without_a_gradient_stays(name):
    x = Tensor(np.ones(2), requires_grad=True)
    PAIRS[name][0]([x]).step()
    assert x.data.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", PAIRS)
def test_a_step_between_forward_and_backward_is_seen(name):
    x = Tensor(np.ones(2), requires_grad=True)
    optimizer = PAIRS[name][0]([x])
    loss = (x * x).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(ValueError, match="but the optimizer's step has since changed it in place"):
        loss.backward()
