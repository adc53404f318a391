"""Precisions: what autocast does, which is chosen, and a loss scale that moves as torch's GradScaler moves it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.train import precision
from vesalius.train.precision import LossScaler, Precision


@pytest.mark.parametrize(("name", "dtype"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
def test_products_are_computed_in_the_short_type(name, dtype):
    with Precision(name, "cpu").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
        assert torch.ones(3).sum().dtype == torch.float32


def test_float32_casts_nothing():
    with Precision("float32", "cpu").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(("bf16_rate", "chosen"), [(1.4, "float32"), (1.6, "bfloat16")])
def test_auto_follows_the_measured_rates(monkeypatch, bf16_rate, chosen):
    rates = {torch.float32: 1.0, torch.bfloat16: bf16_rate}
    monkeypatch.setattr(precision, "matmul_rate", lambda dtype, device, **_: rates[dtype])
    assert Precision.choose("auto", "cpu").name == chosen


def test_only_float16_scales():
    assert Precision("float16", "cpu").scaler() is not None
    assert Precision("bfloat16", "cpu").scaler() is None


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_the_scale_moves_as_torchs(overflows):
    ours = LossScaler(scale=2.0**16, interval=3)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for overflow in overflows[:15]:  # below 1 ours stops: the fault is elsewhere
        theirs.scale(torch.zeros(()))
        parameter.grad = torch.tensor([float("inf") if overflow else 1.0])
        theirs.step(optimizer)
        theirs.update()
        if overflow:
            assert ours.back_off()
        else:
            ours.accept()
        assert ours.scale == theirs.get_scale()


def test_a_scale_of_1_has_nothing_left_to_try():
    scaler = LossScaler(scale=1.0)
    assert not scaler.back_off()
    assert scaler.scale == 1.0


def test_the_state_goes_on():
    scaler = LossScaler(interval=5)
    for _ in range(3):
        scaler.accept()
    other = LossScaler(interval=5)
    other.load_state_dict(scaler.state_dict())
    for _ in range(2):
        other.accept()
    assert other.scale == 2.0**17
