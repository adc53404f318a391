"""From thousands of steps to the few hundred points that a line of pixels can show, without hiding a spike.

Each bin of neighbouring steps keeps three numbers: the mean of the smoothed curve, which is drawn as the line, and the
lowest and highest raw value, which are drawn as a band behind it. Picking every n-th step instead would drop most
spikes.
Smoothing is a centred moving median: an exponential average lags behind the steps that it describes, and one spike
would bend any average for a whole window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vesalius.train.report.reading import Record, finite, number


@dataclass(frozen=True, kw_only=True)
class Point:
    """One bin: its middle step, the smoothed mean, and the range of the raw values."""

    step: float
    value: float
    low: float
    high: float


def thin(records: Sequence[Record], key: str, *, points: int = 300, window: float = 0.02) -> list[Point]:
    """At most `points` bins of `records[…][key]` by step; values that are missing or not finite are left out.

    window  the part of the series that the moving median spans
    """
    pairs = [(record["step"], value) for record in records if (value := number(record, key)) is not None]
    if not pairs:
        return []
    steps, values = np.array(pairs, dtype=float).T
    smooth = moving_median(values, reach=round(window * len(values) / 2))
    edges = np.unique(np.linspace(0, len(values), min(points, len(values)) + 1).astype(int))
    starts, sizes = edges[:-1], np.diff(edges)
    columns = (
        np.add.reduceat(steps, starts) / sizes,
        np.add.reduceat(smooth, starts) / sizes,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )
    return [Point(step=s, value=v, low=a, high=b) for s, v, a, b in zip(*map(np.ndarray.tolist, columns), strict=True)]


def moving_median(values: np.ndarray, *, reach: int) -> np.ndarray:
    """The median of each value and its `reach` neighbours on either side; (n,) -> (n,).

    Near the ends the window shrinks on both sides alike, so that a rising series still begins at its first value.
    """
    n = len(values)
    places = np.arange(n)
    room = np.minimum(reach, np.minimum(places, n - 1 - places))[:, None]  # (n, 1)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, reach, constant_values=np.inf), 2 * reach + 1)
    outside = np.abs(np.arange(-reach, reach + 1)) > room  # (n, 2 reach + 1)
    return np.take_along_axis(np.sort(np.where(outside, np.inf, windows), axis=1), room, axis=1)[:, 0]


def median(records: Sequence[Record], key: str) -> float | None:
    """The median of the finite values of `key`; None where there are none."""
    values = finite(records, key)
    return float(np.median(values)) if values else None
