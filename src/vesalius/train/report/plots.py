"""Small drawings of findings: a histogram, a reliability curve, curves over one axis. SVG as in charts.py, whose theme
and colours they have; one width serves wide and narrow pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from vesalius.train.report.charts import ACCENT, INK, LINE, MUTED, PAPER, Spec, to_svg, with_own_names
from vesalius.train.report.finding import Plot

WIDTH, HEIGHT = 440, 250
AXIS, NAMES = 44, 44
"""What the axis takes on the left, and the names of curves on the right."""

MOST_DOT = 260
"""Area of the largest dot of a reliability curve, in square units."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points (x, y) in order, and the name that stands at the last one. `main` is drawn in the accent."""

    name: str
    points: Sequence[tuple[float, float]]
    main: bool = False


def draw_histogram(edges: Sequence[float], counts: Sequence[float], *, x: str, name: str, caption: str) -> Plot:
    """Bars from edge to edge, those right of 0 in the accent, and a line at 0."""
    pairs = zip(edges, edges[1:], counts, strict=False)
    bars = [{"low": low, "high": high, "count": count, "right": low >= 0} for low, high, count in pairs]
    color = {"color": {"condition": {"test": "datum.right", "value": ACCENT}, "value": MUTED}}
    across, to = _x("low", x), {"x2": {"field": "high"}, "y2": {"datum": 0}}
    layers = [
        _layer(bars, {"type": "bar", "binSpacing": 1}, across | to | _y("count", "") | color),
        _layer([{"low": 0}], {"type": "rule", "color": INK, "strokeDash": [2, 3]}, across),
    ]
    return _plot({"layer": layers}, name, caption)


def draw_reliability(bins: Sequence[dict[str, Any]], *, low: float, x: str, name: str, caption: str) -> Plot:
    """What came true against what was said, each bin a dot as large as it holds many, and the diagonal of honesty."""
    most = max((each["count"] for each in bins), default=1)
    dots = [each | {"area": MOST_DOT * each["count"] / most} for each in bins]
    across, up = {"domain": [low, 1], "nice": False}, {"domain": [0, 1], "nice": False}
    places = _x("predicted", x, across) | _y("observed", "", up)
    size = {"field": "area", "type": "quantitative", "scale": None, "legend": None}
    layers = [
        _layer(
            [{"predicted": low, "observed": low}, {"predicted": 1, "observed": 1}],
            {"type": "line", "color": INK, "strokeDash": [2, 3], "opacity": 0.7},
            places,
        ),
        _layer(dots, {"type": "line", "color": ACCENT, "strokeWidth": 1.7}, places),
        _layer(dots, {"type": "circle", "color": ACCENT, "opacity": 1, "stroke": PAPER}, places | {"size": size}),
    ]
    return _plot({"layer": layers}, name, caption)


def draw_curves(curves: Sequence[Curve], *, x: str, name: str, caption: str, mark: float | None = None) -> Plot:
    """Lines with dots over one axis, and a dashed line at `mark`."""
    layers = (
        []
        if mark is None
        else [_layer([{"x": mark}], {"type": "rule", "color": INK, "strokeDash": [2, 3]}, _x("x", x))]
    )
    for curve in curves:
        points = [{"x": across, "y": up} for across, up in curve.points]
        color = ACCENT if curve.main else MUTED
        places = _x("x", x) | _y("y", "")
        label = {"type": "text", "text": curve.name, "color": color, "align": "left", "dx": 8, "fontWeight": "bold"}
        layers += [
            _layer(points, {"type": "line", "color": color, "strokeWidth": 1.7}, places),
            _layer(points, {"type": "circle", "color": color, "size": 36, "opacity": 1, "stroke": PAPER}, places),
            _layer(points[-1:], label, places),
        ]
    return _plot({"layer": layers}, name, caption, right=NAMES)


def _x(field: str, title: str, scale: Spec | None = None) -> Spec:
    axis = {"title": title, "grid": False, "tickCount": 6, "format": ".2~f"}
    return {"x": {"field": field, "type": "quantitative", "axis": axis, "scale": scale or {"zero": False}}}


def _y(field: str, title: str, scale: Spec | None = None) -> Spec:
    axis = {"title": title or None, "tickCount": 5, "format": ".3~f", "gridColor": LINE}
    return {"y": {"field": field, "type": "quantitative", "axis": axis, "scale": scale or {"zero": False}}}


def _layer(values: Sequence[dict[str, Any]], mark: Spec, places: Spec) -> Spec:
    return {"data": {"values": list(values)}, "mark": mark, "encoding": places}


def _plot(spec: Spec, name: str, caption: str, *, right: int = 0) -> Plot:
    """`name` keeps the drawing's own names apart from those of others on the page; `right` is left free there."""
    svg = to_svg(spec | {"width": WIDTH - AXIS - right, "height": HEIGHT}, WIDTH)
    return Plot(svg=Markup(with_own_names(svg, name)), caption=caption)
