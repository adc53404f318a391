"""What is done about a bad step: leave it out, go back to a checkpoint with a lower rate, or give up.

A bad step never reaches the optimizer. One bad batch is skipped and forgotten. Several in a row mean that the weights
are on a bad path (or broken, then at once): the run takes weights and optimizer from the last good checkpoint and goes
on with the data that comes next, at a lower rate, as PaLM's authors did by hand (Chowdhery et al. 2022,
arXiv:2204.02311, section 5.1). The budget is not given back, so every run ends, and a step never stands twice in the
records.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from vesalius.train.anomalies import AnomalyDetector, Fault
from vesalius.train.config import GuardConfig

HISTORY = 0.05
"""How much the newest step weighs in each parameter's usual gradient norm."""


class Guard:
    """Judges steps and decides on bad ones; the loop carries the decisions out."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.detector = AnomalyDetector(config.window, config.spike_z)
        self.usual_norms: Tensor | None = None  # (P,) on the device
        self.bad_in_a_row = self.good_in_a_row = self.rollbacks = 0

    def inspect(self, loss: float, grad_norm: float) -> Fault | None:
        """What is wrong with a step, None where nothing is."""
        return self.detector.inspect(loss, grad_norm)

    def accept(self, loss: float, grad_norm: float, norms: Tensor) -> None:
        """Takes in a healthy step. norms (P,): the gradient norm of each parameter."""
        self.detector.accept(loss, grad_norm)
        self.usual_norms = norms.clone() if self.usual_norms is None else self.usual_norms.lerp_(norms, HISTORY)
        self.bad_in_a_row, self.good_in_a_row = 0, self.good_in_a_row + 1
        if self.good_in_a_row >= self.config.window:
            self.rollbacks = 0

    def decide(self, *, broken_weights: bool) -> Literal["skip", "rollback", "give up"]:
        """What to do about a bad step."""
        self.bad_in_a_row, self.good_in_a_row = self.bad_in_a_row + 1, 0
        if self.bad_in_a_row <= self.config.skips and not broken_weights:
            return "skip"
        if self.rollbacks == self.config.rollbacks:
            return "give up"
        self.rollbacks, self.bad_in_a_row = self.rollbacks + 1, 0
        self.detector.forget()
        return "rollback"

    def state_dict(self) -> dict[str, Any]:
        return {
            "detector": self.detector.state_dict(),
            "usual_norms": None if self.usual_norms is None else self.usual_norms.tolist(),
            "bad_in_a_row": self.bad_in_a_row,
            "good_in_a_row": self.good_in_a_row,
            "rollbacks": self.rollbacks,
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        self.detector.load_state_dict(state["detector"])
        usual = state["usual_norms"]
        self.usual_norms = None if usual is None else torch.tensor(usual, device=device)
        self.bad_in_a_row, self.good_in_a_row = state["bad_in_a_row"], state["good_in_a_row"]
        self.rollbacks = state["rollbacks"]
