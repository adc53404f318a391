"""Length bias: how much of what a reward model likes is length. Singhal et al. 2023, arXiv:2310.03716.

The correlation of rewards with lengths over all answers mixes answers to different questions, so pairs are told too:
how often the longer answer has the higher reward, beside how often it is the better one. Where the first is above the
second, the model likes length for its own sake, and a policy will find that out. The same is seen where its accuracy is
told apart by which of the two is longer, and where its margins follow the difference of the lengths.
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
    accuracy_longer, accuracy_shorter  share of right preferences where the chosen answer is the longer, the shorter one
    margin_correlation                 Pearson's, of the margins of pairs and the differences of their lengths
    """

    correlation: float | None
    longer_preferred: float | None
    longer_better: float | None
    pairs: int
    accuracy_longer: float | None
    accuracy_shorter: float | None
    margin_correlation: float | None


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
    won = (np.sign(r[:, 0] - r[:, 1]) + 1) / 2  # a tie counts half
    return LengthBias(
        correlation=correlation(r, n),
        longer_preferred=_share(np.concatenate((won[longer > 0], 1 - won[longer < 0]))),
        longer_better=_share(longer[longer != 0] > 0),
        pairs=int((longer != 0).sum()),
        accuracy_longer=_share(won[longer > 0]),
        accuracy_shorter=_share(won[longer < 0]),
        margin_correlation=correlation(r[:, 0] - r[:, 1], n[:, 0] - n[:, 1]),
    )


def _share(values: npt.NDArray[np.float64 | np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None
