"""Length bias: how much of what a reward model likes is length. Singhal et al. 2023, arXiv:2310.03716.

The correlation of rewards with lengths over all answers mixes answers to different questions, so pairs are told too:
how often the longer answer has the higher reward, beside how often it is the better one. Where the first is above the
second, the model likes length for its own sake, and a policy will find that out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.ArrayLike


@dataclass(frozen=True, kw_only=True)
class LengthBias:
    """correlation      Pearson's, of rewards and lengths; None where either is constant
    longer_preferred  share of pairs of different length whose longer answer has the higher reward
    longer_better     share of them whose longer answer is the chosen one
    pairs             how many these are
    """

    correlation: float | None
    longer_preferred: float | None
    longer_better: float | None
    pairs: int


def correlation(first: Numbers, second: Numbers) -> float | None:
    """Pearson's correlation; None for fewer than two values or where either is constant.

    >>> round(correlation([1, 2, 3], [2, 4, 7]), 3)
    0.993
    """
    x, y = (np.asarray(values, np.float64).ravel() for values in (first, second))
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def length_bias(rewards: Numbers, lengths: Numbers) -> LengthBias:
    """rewards and lengths (N, 2) of pairs, the chosen answer first."""
    r, n = np.asarray(rewards, np.float64).reshape(-1, 2), np.asarray(lengths, np.int64).reshape(-1, 2)
    longer = np.sign(n[:, 0] - n[:, 1])  # 1 where the chosen answer is the longer one
    differ = longer != 0
    agrees = (np.sign(r[:, 0] - r[:, 1])[differ] * longer[differ] + 1) / 2  # a tie counts half
    return LengthBias(
        correlation=correlation(r, n),
        longer_preferred=float(agrees.mean()) if differ.any() else None,
        longer_better=float((longer[differ] > 0).mean()) if differ.any() else None,
        pairs=int(differ.sum()),
    )
