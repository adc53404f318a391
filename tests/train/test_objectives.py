"""Cross-entropy by hand against torch's, in float32: values within 2e-6 of theirs, gradients within 2e-5 of theirs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from vesalius.data.batch import IGNORE, Batch
from vesalius.train.objectives import NextToken, cross_entropy

N, V = 37, 101


def data(seed, ignored=0.3, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(N, V, generator=generator) * scale).requires_grad_()
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[torch.rand(N, generator=generator) < ignored] = IGNORE
    targets[0] = 5
    return logits, targets


def both(ours, theirs, logits):
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(*gradients, rtol=2e-5, atol=1e-8)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]), st.sampled_from([0.1, 3.0, 30.0]))
def test_equals_torch_with_label_smoothing(seed, smoothing, scale):
    logits, targets = data(seed, scale=scale)
    ours, _ = cross_entropy(logits, targets, label_smoothing=smoothing)
    both(ours, F.cross_entropy(logits, targets, ignore_index=IGNORE, label_smoothing=smoothing), logits)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1]))
def test_z_loss_equals_its_formula(seed, smoothing):
    logits, targets = data(seed)
    ours, _ = cross_entropy(logits, targets, smoothing, z_loss=1e-2)
    log_z = logits.logsumexp(-1)[targets != IGNORE]
    theirs = (
        F.cross_entropy(logits, targets, ignore_index=IGNORE, label_smoothing=smoothing) + 1e-2 * log_z.square().mean()
    )
    both(ours, theirs, logits)


def test_gradient_passes_finite_differences():
    logits, targets = data(3)
    logits = logits.detach().double()
    gradient = torch.autograd.grad(cross_entropy(logits.requires_grad_(), targets, 0.1, 0.01)[0], logits)[0]
    direction = torch.randn(N, V, generator=torch.Generator().manual_seed(1)).double()
    h = 1e-2
    with torch.no_grad():
        up, down = (cross_entropy((logits + s * h * direction).float(), targets, 0.1, 0.01)[0] for s in (1, -1))
    assert (up - down).item() / (2 * h) == pytest.approx((gradient * direction).sum().item(), rel=1e-3)


def test_plain_cross_entropy_is_a_metric_beside_what_is_added():
    logits, targets = data(0)
    batch = Batch(tokens=torch.zeros(1, N, dtype=torch.int64), targets=targets[None])
    model = torch.nn.Module()
    model.forward = lambda tokens, positions: logits[None]
    plain, nothing = NextToken()(model, batch)
    loss, metrics = NextToken(label_smoothing=0.1, z_loss=1e-4)(model, batch)
    assert nothing == {}
    torch.testing.assert_close(metrics["cross_entropy"], plain.detach(), rtol=0, atol=0)
    assert loss != plain


def test_bfloat16_logits_are_summed_in_float32():
    logits, targets = data(1)
    short = logits.detach().bfloat16()
    assert cross_entropy(short, targets)[0] == cross_entropy(short.float(), targets)[0]


def test_no_target_is_no_loss_and_no_gradient():
    logits, targets = data(0)
    loss, _ = cross_entropy(logits, torch.full_like(targets, IGNORE))
    assert loss == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0
