"""Micro-batches equal the large batch, whatever their shares of targets; clipping equals torch's."""

import pytest
import torch

from vesalius.train.training import Callback


class Gradients(Callback):
    """Keeps what the optimizer was given in the last step."""

    def __init__(self):
        self.seen = []

    def on_start(self, run):
        def remember(optimizer, args, kwargs):
            self.seen = [p.grad.clone() for g in optimizer.param_groups for p in g["params"]]

        run.optimizer.register_step_pre_hook(remember)


def gradients(train, **settings):
    watcher = Gradients()
    _, recorder = train(watcher, **{"steps": 4, "clip_norm": None, **settings})
    return watcher.seen, recorder


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_accumulation_equals_the_large_batch(train, rows):
    """Batch n has n mod 4 rows with half of their targets, so a mean of means would differ. 1e-6 after four steps."""
    whole, whole_records = gradients(train)
    parts, part_records = gradients(train, micro_batch_rows=rows)
    for x, y in zip(whole, parts, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)
    assert part_records.losses == pytest.approx(whole_records.losses, abs=1e-6)


def test_metrics_are_means_over_targets_too(train):
    whole = gradients(train, z_loss=1e-2)[1].steps[-1]["cross_entropy"]
    parts = gradients(train, z_loss=1e-2, micro_batch_rows=1)[1].steps[-1]["cross_entropy"]
    assert parts == pytest.approx(whole, abs=1e-6)


def test_clipping_by_norm_equals_torch(train):
    free, recorder = gradients(train, steps=1)
    clipped, _ = gradients(train, steps=1, clip_norm=0.25)
    for gradient in free:
        gradient.requires_grad_().grad = gradient.detach().clone()
    norm = torch.nn.utils.clip_grad_norm_(free, 0.25)
    assert recorder.steps[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-6)
    for x, y in zip(free, clipped, strict=True):
        torch.testing.assert_close(x.grad, y, rtol=1e-6, atol=0)


def test_clipping_by_value(train):
    clipped, _ = gradients(train, steps=1, clip_value=1e-3)
    assert max(gradient.abs().max().item() for gradient in clipped) == pytest.approx(1e-3)


def test_a_short_gradient_is_left_alone(train):
    free, _ = gradients(train, steps=1)
    clipped, _ = gradients(train, steps=1, clip_norm=1e6)
    assert all(torch.equal(x, y) for x, y in zip(free, clipped, strict=True))
