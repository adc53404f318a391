"""Is this step like the ones before it? Judged by robust z-scores of the loss and of the log of the gradient norm.

Median and MAD (median absolute deviation) stand in for mean and deviation: a few spikes inside the window do not move
them (Rousseeuw & Hubert 2011, "Robust statistics for outlier detection"). Only upward deviations count. The gradient
norm is multiplicative noise, hence its logarithm. Nothing is judged before half a window of healthy steps, since the
first steps of a run fall steeply.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

TO_SIGMA = 1.4826
"""The deviation of a normal distribution is so many times its MAD."""

LOSS_FLOOR = 0.02
NORM_FLOOR = 0.2
"""Smallest deviation, of the loss as a part of it and of the log norm: a flat curve's ripples are no spikes."""


@dataclass(frozen=True)
class Fault:
    """Why a step is distrusted. `kind` says what diagnosis.py should look for."""

    kind: str  # "loss" or "gradient": not finite; "spike": finite and far above usual
    reason: str


class AnomalyDetector:
    """Remembers the loss and gradient norm of healthy steps. `spike_z` 0: only non-finite values are faults."""

    def __init__(self, window: int, spike_z: float) -> None:
        self.window, self.spike_z = window, spike_z
        self.losses: deque[float] = deque(maxlen=window)
        self.log_norms: deque[float] = deque(maxlen=window)

    def inspect(self, loss: float, grad_norm: float) -> Fault | None:
        """What is wrong with a step, None where nothing is."""
        if not math.isfinite(loss):
            return Fault("loss", f"the loss is {loss}")
        if not math.isfinite(grad_norm):
            return Fault("gradient", f"the gradient norm is {grad_norm}")
        if not self.spike_z or len(self.losses) < self.window // 2:
            return None
        usual, z = _robust_z(loss, self.losses, floor=LOSS_FLOOR * abs(_median(self.losses)))
        if z > self.spike_z:
            return Fault("spike", f"the loss {loss:.4g} is {z:.0f} robust deviations above the usual {usual:.4g}")
        usual, z = _robust_z(_log(grad_norm), self.log_norms, floor=NORM_FLOOR)
        if z > self.spike_z:
            return Fault(
                "spike",
                f"the gradient norm {grad_norm:.4g} is {z:.0f} robust deviations above the usual {math.exp(usual):.4g}",
            )
        return None

    def accept(self, loss: float, grad_norm: float) -> None:
        """Takes a healthy step into what is usual."""
        self.losses.append(loss)
        self.log_norms.append(_log(grad_norm))

    def forget(self) -> None:
        """Starts anew after a way back: so a loss that rose for good becomes the new usual."""
        self.losses.clear()
        self.log_norms.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "log_norms": list(self.log_norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=self.window)
        self.log_norms = deque(state["log_norms"], maxlen=self.window)


def _robust_z(value: float, usual: deque[float], floor: float) -> tuple[float, float]:
    """The median of `usual`, and how many robust deviations `value` is above it."""
    middle = _median(usual)
    sigma = max(TO_SIGMA * _median([abs(x - middle) for x in usual]), floor, 1e-12)
    return middle, (value - middle) / sigma


def _median(values: deque[float] | list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _log(grad_norm: float) -> float:
    return math.log(max(grad_norm, 1e-30))
