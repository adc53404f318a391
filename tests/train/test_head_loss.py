"""The head's loss in chunks equals the loss of all logits at once."""

import pytest
import torch

from vesalius.data.batch import IGNORE
from vesalius.train import head_chunks
from vesalius.train.head_loss import LossSettings, head_cross_entropy
from vesalius.train.objectives import cross_entropy

N, D, V = 150, 8, 33


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, N // 3, D, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(V, (3, N // 3), generator=generator)
    targets[0, :20] = IGNORE
    return hidden, weight, targets


def at_once(hidden, weight, targets, settings):
    logits = (hidden @ weight.T).float() / settings.logits_scaling
    if settings.softcap:
        logits = settings.softcap * torch.tanh(logits / settings.softcap)
    return cross_entropy(logits, targets, settings.label_smoothing, settings.z_loss)


@pytest.fixture(params=[1, 10**9], ids=["many chunks", "one chunk"])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(head_chunks, "CHUNK_BYTES", request.param)
    monkeypatch.setattr(head_chunks, "MIN_ROWS", 32)


@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(),
        LossSettings(label_smoothing=0.1, z_loss=1e-2),
        LossSettings(logits_scaling=4.0),
        LossSettings(logits_scaling=2.0, softcap=3.0, z_loss=1e-2),
    ],
)
@pytest.mark.usefixtures("_chunks")
def test_loss_and_gradients(settings):
    hidden, weight, targets = inputs()
    ours, truth = head_cross_entropy(hidden, weight, targets, settings), at_once(hidden, weight, targets, settings)
    torch.testing.assert_close(ours, truth, atol=1e-6, rtol=1e-6)
    assert not ours[1].requires_grad
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours[0], (hidden, weight)),
        torch.autograd.grad(3 * truth[0], (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("_chunks")
def test_autocast_stays_near_float32():
    hidden, weight, targets = inputs()
    truth = head_cross_entropy(hidden, weight, targets)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head_cross_entropy(hidden, weight, targets)[0]
    torch.testing.assert_close(ours, truth, atol=2e-2, rtol=1e-2)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(truth, (hidden, weight)), strict=True
    ):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=5e-2)


def test_without_targets_the_loss_and_its_gradients_are_zero():
    hidden, weight, targets = inputs()
    loss, plain = head_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE))
    assert loss == plain == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_a_frozen_head_passes_the_gradient_on():
    hidden, weight, targets = inputs()
    (ours,) = torch.autograd.grad(head_cross_entropy(hidden, weight.detach(), targets)[0], hidden)
    (truth,) = torch.autograd.grad(at_once(hidden, weight, targets, LossSettings())[0], hidden)
    torch.testing.assert_close(ours, truth, atol=1e-6, rtol=1e-5)


def test_nothing_is_computed_back_where_no_gradient_is_wanted():
    hidden, weight, targets = inputs()
    with torch.no_grad():
        loss, _ = head_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(loss, at_once(hidden, weight, targets, LossSettings())[0].detach())
