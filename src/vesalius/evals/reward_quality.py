"""How good a scoring model is on answers that it has not seen: the figures that its report shows.

    pairs   accuracy, how far apart chosen and rejected answers are, whether σ of that distance is the probability of
            being right, and how much of it is length
    scores  the error beside that of always saying the mean, and the correlation
    steps   accuracy beside that of always saying the same, calibration, and whole solutions by the product of their
            steps

All are plain numbers, as evals.json holds them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from vesalius.evals.calibration import calibration_error, reliability
from vesalius.evals.length_bias import correlation, length_bias

Array = npt.NDArray[np.float64]

HISTOGRAM_BINS = 24


def pair_quality(rewards: npt.ArrayLike, lengths: npt.ArrayLike) -> dict[str, Any]:
    """rewards and lengths in tokens (N, 2), the chosen answer first.

    A pair is a prediction with confidence σ(|r_chosen - r_rejected|) that is right where the chosen answer wins.
    """
    r = np.asarray(rewards, np.float64).reshape(-1, 2)
    margins = r[:, 0] - r[:, 1]
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    bins = reliability(confidence.tolist(), (margins > 0).tolist(), bins=10, low=0.5)
    return {
        "pairs": len(r),
        "accuracy": float(((np.sign(margins) + 1) / 2).mean()),
        "margin": float(margins.mean()),
        "reward": float(r.mean()),
        "reward_deviation": float(r.std()),
        "margins": histogram(margins),
        "calibration_error": calibration_error(bins),
        "reliability": [asdict(each) for each in bins],
        "length_bias": asdict(length_bias(r, lengths)),
    }


def score_quality(rewards: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, Any]:
    """rewards and the scores that they should be, (N,) each."""
    r, s = (np.asarray(values, np.float64).ravel() for values in (rewards, scores))
    return {
        "answers": len(r),
        "mean_squared_error": float(((r - s) ** 2).mean()),
        "error_of_the_mean": float(s.var()),
        "correlation": correlation(r, s),
    }


def step_quality(probabilities: Sequence[Sequence[float]], labels: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """For each solution its steps' probabilities of being right, and whether they are."""
    p, truth = (
        np.array([value for some in values for value in some], np.float64) for values in (probabilities, labels)
    )
    bins = reliability(p.tolist(), truth.astype(bool).tolist(), bins=10)
    solved = np.array([np.prod(steps) >= 0.5 for steps in probabilities])
    right = np.array([all(steps) for steps in labels])
    return {
        "solutions": len(labels),
        "steps": len(p),
        "accuracy": float(((p >= 0.5) == truth).mean()),
        "majority": float(max(truth.mean(), 1 - truth.mean())),
        "right_steps_found": _share((p >= 0.5)[truth == 1]),
        "wrong_steps_found": _share((p < 0.5)[truth == 0]),
        "solution_accuracy": float((solved == right).mean()),
        "calibration_error": calibration_error(bins),
        "reliability": [asdict(each) for each in bins],
    }


def histogram(values: Array) -> dict[str, list[float]]:
    """Edges (n + 1) and counts (n) of equal bins over all values, 0 on an edge.

    >>> histogram(np.array([-1.0, 1.0]))["edges"][::24]
    [-1.0, 1.0]
    """
    reach = max(float(np.abs(values).max(initial=0.0)), 1e-6)
    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS, range=(-reach, reach))
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _share(right: npt.NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if len(right) else None
