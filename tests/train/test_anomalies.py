"""The detector on made-up curves: quiet on noise and falling losses, loud on what is not finite or far above usual."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.train.anomalies import AnomalyDetector


def after(losses, norms=None, spike_z=10.0):
    detector = AnomalyDetector(32, spike_z)
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        detector.accept(loss, norm)
    return detector


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_not_finite_is_a_fault_from_the_first_step(value, place):
    fault = AnomalyDetector(32, 0.0).inspect(*((value, 1.0) if place == "loss" else (1.0, value)))
    assert fault.kind == place
    assert str(value) in fault.reason


@given(st.integers(0, 1000))
def test_ordinary_noise_is_no_spike(seed):
    """Gaussian losses and log-normal gradient norms, as training has them: none of 100 steps is a spike."""
    noise, detector = random.Random(seed), AnomalyDetector(64, 10.0)
    for step in range(100):
        loss = 3 + 5 * math.exp(-step / 20) + noise.gauss(0, 0.1)
        norm = math.exp(noise.gauss(0, 0.3))
        assert detector.inspect(loss, norm) is None
        detector.accept(loss, norm)


@given(st.integers(0, 1000), st.floats(2.0, 100.0))
def test_a_loss_far_above_usual_is_a_spike(seed, factor):
    noise = random.Random(seed)
    fault = after([3 + noise.gauss(0, 0.05) for _ in range(32)]).inspect(3 * factor, 1.0)
    assert fault.kind == "spike"
    assert "loss" in fault.reason


def test_a_gradient_far_above_usual_is_a_spike():
    fault = after([3.0] * 32, [1 + 0.01 * i for i in range(32)]).inspect(3.0, 50.0)
    assert fault.kind == "spike"
    assert "gradient norm 50" in fault.reason


@pytest.mark.parametrize("loss", [0.5, 3.1])
def test_lower_losses_and_ripples_of_a_flat_curve_are_healthy(loss):
    assert after([3.0] * 32).inspect(loss, 1.0) is None


def test_a_negative_usual_loss_has_spikes_too():
    assert after([-3.0] * 32).inspect(5.0, 1.0).kind == "spike"


def test_few_steps_are_no_measure():
    assert after([3.0] * 15).inspect(300.0, 1.0) is None
    assert after([3.0] * 16).inspect(300.0, 1.0) is not None


def test_spikes_can_be_let_through():
    assert after([3.0] * 32, spike_z=0.0).inspect(300.0, 1e6) is None


def test_what_is_forgotten_is_no_measure():
    detector = after([3.0] * 32)
    detector.forget()
    assert detector.inspect(300.0, 1.0) is None
