"""Curves as an SVG: losses by step, one line a name, smoothed by a running mean. Nothing but text is needed to draw.

Left out: axes of other kinds than linear ones; plots of whole runs are train/report's.
"""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, LEGEND = 640, 360, 48, 16, 36, 230  # pixels
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")


def curves_svg(curves: Mapping[str, Sequence[float]], *, label: str, window: int = 10) -> str:
    """Curves by name -> a self-contained SVG; `label` is the vertical axis's. Gaps where a curve is not finite.

    ValueError where no curve has a finite number, or there are more curves than colours.
    """
    smooth = {name: running_mean(values, window) for name, values in curves.items()}
    finite = [values[np.isfinite(values)] for values in smooth.values()]
    if len(curves) > len(COLOURS) or not any(values.size for values in finite):
        raise ValueError(f"a figure shows 1 to {len(COLOURS)} curves with finite numbers, got {len(curves)}")
    low, high = np.concatenate(finite).min(), np.concatenate(finite).max()
    steps = max(len(values) for values in smooth.values())
    x = LEFT + (WIDTH - LEFT) * np.arange(steps) / max(steps - 1, 1)
    lines = []
    for place, (name, values) in enumerate(smooth.items()):
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (values - low) / ((high - low) or 1)
        lines += [_line(x[: len(y)], y, COLOURS[place]), _legend(name, place)]
    marks = [
        _text(4, HEIGHT - BOTTOM, f"{low:.2f}"),
        _text(4, TOP + 8, f"{high:.2f}"),
        _text(LEFT, HEIGHT - 8, "step 1"),
    ]
    marks += [_text(WIDTH - 30, HEIGHT - 8, str(steps)), _text(WIDTH // 2 - 40, HEIGHT - 8, label)]
    header = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEGEND} {HEIGHT}" font-size="12">'
    return "\n".join([header, *lines, *marks, "</svg>"])


def running_mean(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """(N,) -> (N,): the mean of each value and up to `window` - 1 before it."""
    array = np.asarray(values, dtype=np.float64)
    return np.array([array[max(0, i - window + 1) : i + 1].mean() for i in range(len(array))])


def _line(x: NDArray[np.float64], y: NDArray[np.float64], colour: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True) if np.isfinite(b))
    return f'<polyline points="{points}" fill="none" stroke="{colour}"/>'


def _legend(name: str, place: int) -> str:
    y = TOP + 18 * place
    return f'<rect x="{WIDTH + 12}" y="{y}" width="10" height="10" fill="{COLOURS[place]}"/>' + _text(
        WIDTH + 28, y + 10, name
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'
