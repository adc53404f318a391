"""Schedules equal transformers' at every step (1e-12), and keep their promises for every warmup and floor."""

import math

import pytest
import torch
import transformers.optimization as peer
from hypothesis import given
from hypothesis import strategies as st

from vesalius.train.config import TrainConfig
from vesalius.train.schedules import build_schedule

N, WARMUP = 200, 30


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


PEERS = {
    "constant": (peer.get_constant_schedule_with_warmup, {}, {}),
    "linear": (peer.get_linear_schedule_with_warmup, {"num_training_steps": N}, {}),
    "cosine": (peer.get_cosine_schedule_with_warmup, {"num_training_steps": N}, {}),
    "cosine with a floor": (
        peer.get_cosine_with_min_lr_schedule_with_warmup,
        {"num_training_steps": N, "min_lr_rate": 0.1},
        {"final_fraction": 0.1},
    ),
    "inverse_sqrt": (peer.get_inverse_sqrt_schedule, {}, {}),
    "wsd linear": (
        peer.get_wsd_schedule,
        {"num_decay_steps": 50, "num_training_steps": N, "decay_type": "linear"},
        {"decay_fraction": 0.25, "decay_shape": "linear"},
    ),
    "wsd 1-sqrt": (
        peer.get_wsd_schedule,
        {"num_decay_steps": 50, "num_training_steps": N, "decay_type": "1-sqrt"},
        {"decay_fraction": 0.25, "decay_shape": "1-sqrt"},
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_equals_transformers(name):
    make, theirs, ours = PEERS[name]
    reference = make(optimizer(), num_warmup_steps=WARMUP, **theirs).lr_lambdas[0]
    schedule = build_schedule(TrainConfig(steps=N, schedule=name.split()[0], warmup_steps=WARMUP, **ours))
    for step in range(N + 1):
        assert math.isclose(schedule(step / N), reference(step), rel_tol=1e-12, abs_tol=1e-12), step


@given(
    st.sampled_from(["constant", "linear", "cosine", "wsd", "inverse_sqrt"]),
    st.floats(0.01, 0.4),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_rises_to_1_then_never_rises_nor_leaves_the_floor(name, warmup, final, progress):
    schedule = build_schedule(TrainConfig(steps=5, schedule=name, warmup=warmup, final_fraction=final))
    assert schedule(0.0) == 0
    assert schedule(warmup) == pytest.approx(1, abs=1e-12)
    later = min(1.0, progress + 0.01)
    if progress >= warmup:
        assert final - 1e-12 <= schedule(later) <= schedule(progress) + 1e-12 <= 1 + 2e-12
    else:
        assert schedule(progress) == pytest.approx(progress / warmup)


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_ends_on_the_floor(name):
    schedule = build_schedule(TrainConfig(steps=5, schedule=name, final_fraction=0.25))
    assert schedule(1.0) == pytest.approx(0.25, abs=1e-12)
