"""How far the policy has gone from where it began: estimates of KL(π ‖ π_ref), and how strongly it is held back.

Estimators from samples of π, token by token, with r = π_ref / π (Schulman 2020, "Approximating KL divergence"):

    k1 = -log r              unbiased, often negative, of high variance
    k2 = (log r)² / 2        biased, small variance; its gradient is that of the true KL
    k3 = r - 1 - log r       unbiased, never negative, small variance

Controllers of the weight β of the KL (Ziegler et al. 2019, arXiv:1909.08593, section 2.2):

    e = clip(KL / target - 1, -0.2, 0.2),   β ← β (1 + e · answers / horizon)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CLIP = 0.2
"""The error that one update reacts to at most."""


def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """log-probabilities under the policy and the reference (…) -> (…)."""
    return logp - reference


def k2(logp: Tensor, reference: Tensor) -> Tensor:
    """As `k1`."""
    return (logp - reference).square() / 2


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """As `k1`."""
    log_r = reference - logp
    return torch.expm1(log_r) - log_r


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


@dataclass
class KLController:
    """The weight of the KL. With a `target` (nats an answer) it is raised where the KL is above it, else lowered;
    without one it stays.

    horizon  answers in which the weight can change by the factor e at a constant error of 1
    """

    weight: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, answers: int) -> None:
        """Takes in the mean KL of so many answers."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -CLIP), CLIP)
            self.weight *= 1 + error * answers / self.horizon
