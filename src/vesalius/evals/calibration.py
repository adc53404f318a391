"""Calibration: do things of which a model says "70 %" happen 7 times in 10?

Predictions are sorted into bins of equal width; in each the mean prediction stands against the share that came true.
The expected calibration error is the mean distance of the two, each bin by how many it holds (Guo et al. 2017,
arXiv:1706.04599, eq. 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Predictions from `low` to below `high` (the last bin: to `high`): how many, their mean, and the share that came
    true."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


def reliability(
    probabilities: Sequence[float], outcomes: Sequence[bool], *, bins: int = 10, low: float = 0.0
) -> list[Bin]:
    """The bins that hold anything, of `bins` between `low` and 1. ValueError for unequal lengths or a probability
    outside.

    >>> reliability([0.2, 0.9, 0.8], [False, True, False], bins=2)[1]
    Bin(low=0.5, high=1.0, count=2, predicted=0.85, observed=0.5)
    """
    if len(probabilities) != len(outcomes):
        raise ValueError(f"got {len(probabilities)} probabilities and {len(outcomes)} outcomes, expected as many")
    p, truth = np.asarray(probabilities, np.float64), np.asarray(outcomes, np.float64)
    if len(p) and not (low <= p.min() and p.max() <= 1):
        raise ValueError(f"probabilities must lie from {low} to 1, got {p.min()} to {p.max()}")
    edges = np.linspace(low, 1.0, bins + 1)
    place = np.searchsorted(edges[1:-1], p, side="right")
    return [
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            count=int(inside.sum()),
            predicted=float(p[inside].mean()),
            observed=float(truth[inside].mean()),
        )
        for i in range(bins)
        if (inside := place == i).any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error; 0 where there are no bins."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.predicted - each.observed) for each in bins) / total if total else 0.0
