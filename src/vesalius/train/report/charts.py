"""The instrument strip of a stage: loss, rate, gradient and throughput above one another on one axis of steps.

Aligned panels let the eye follow an event downwards: where the loss jumped, what did the gradient do? Training is drawn
in grey; the accent is kept for what was measured on text that the model has not seen.

The drawing is SVG, made from a Vega-Lite specification in two widths, and its colours are the page's CSS variables. So
it changes with the theme, prints, and needs no script to be seen. Left out: the Vega runtime in the page, which is
thrice the size of everything else and takes seconds to bundle; and altair, which takes seconds to check and copy what
stands here.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import vl_convert

from vesalius.train.report import formats
from vesalius.train.report.reading import Stage, finite, number
from vesalius.train.report.series import Point, median, thin

Spec = dict[str, Any]
INK, MUTED, LINE, ACCENT, PAPER = (f"var(--{name})" for name in ("ink", "muted", "line", "accent", "paper"))
AXIS_WIDTH = 40
WIDE, NARROW = 900, 350
EVENTS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One quantity by step. `zero` puts 0 on its axis, `number` is the d3 format of its axis."""

    key: str
    title: str
    height: int
    ticks: int
    number: str
    zero: bool = True


PANELS = (
    Panel(key="loss", title="Loss", height=260, ticks=5, number=".2~f", zero=False),
    Panel(key="lr", title="Learning rate", height=64, ticks=2, number=".1~e"),
    Panel(key="grad_norm", title="Gradient norm", height=64, ticks=2, number=".2~f"),
    Panel(key="tok_per_s", title="Tokens per second", height=64, ticks=2, number="~s"),
)

THEME: Spec = {
    "font": "Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domain": False, "ticks": False, "gridColor": LINE, "labelColor": MUTED, "labelFontSize": 11, "labelPadding": 6,
        "titleColor": MUTED, "titleFontSize": 11, "titleFontWeight": "normal",
    },
    "axisX": {"labelFlush": True},
    "axisY": {"minExtent": AXIS_WIDTH, "maxExtent": AXIS_WIDTH},
    "text": {"fontSize": 11.5},
}  # fmt: skip


def stage_curves(stage: Stage) -> dict[Panel, list[Point]]:
    """What each panel of a stage shows; without the panels that have nothing to show."""
    return {panel: points for panel in PANELS if (points := thin(stage.steps, panel.key))}


def draw_stage(stage: Stage, curves: dict[Panel, list[Point]], width: int) -> str:
    """The panels, at least one, as one <svg> of `width` units."""
    rows = []
    for panel, points in curves.items():
        axis = step_axis(stage.span, width=width, bottom=panel is list(curves)[-1])
        layers = [*guard_layers(panel, stage), *curve_layers(panel, points, stage), *caption_layers(panel, stage)]
        row = {"height": panel.height, "width": width - AXIS_WIDTH, "encoding": {"x": axis}}
        rows.append(row | {"layer": layers})
    svg = to_svg({"vconcat": rows, "spacing": 44, "bounds": "flush"}, width)
    return with_own_names(svg, f"{stage.name} {width}")


def step_axis(span: tuple[float, float], *, width: int, bottom: bool) -> Spec:
    """The axis that all panels share, which only the bottom one labels."""
    scale = {"domain": list(span), "nice": False}
    ticks = {"format": ",d", "tickCount": int(min(width // 90, span[1] - span[0]))}
    axis = {"title": "Step" if bottom else None, "labels": bottom, "grid": False, **ticks}
    return {"field": "step", "type": "quantitative", "scale": scale, "axis": axis}


def curve_layers(panel: Panel, points: Sequence[Point], stage: Stage) -> list[Spec]:
    """The range of single steps as a band, the smoothed line, and on the loss the validations."""
    validations = validation_points(stage) if panel.key == "loss" else []
    label = f"datum.value == 0 ? '0' : format(datum.value, '{panel.number}')"
    y = {
        "field": "value",
        "type": "quantitative",
        "scale": {"domain": value_span(panel, points, validations), "nice": False, "zero": False},
        "axis": {"title": None, "tickCount": panel.ticks, "labelExpr": label},
    }
    training, held_out = ({"values": [asdict(point) for point in series]} for series in (points, validations))
    band = {"type": "area", "color": MUTED, "opacity": 0.25, "clip": True}
    line = {"type": "line", "color": MUTED, "strokeWidth": 1.5, "clip": True}
    held_out_line = {"type": "line", "color": ACCENT, "strokeWidth": 1.7}
    held_out_dots = {"type": "circle", "color": ACCENT, "size": 36, "opacity": 1, "stroke": PAPER, "strokeWidth": 1.3}
    layers = [
        (training, band, {"y": y | {"field": "low"}, "y2": {"field": "high"}}),
        (training, line, {"y": y}),
        (held_out, held_out_line, {"y": y}),
        (held_out, held_out_dots, {"y": y}),
    ]
    return [{"data": data, "mark": mark, "encoding": places} for data, mark, places in layers if data["values"]]


def validation_points(stage: Stage) -> list[Point]:
    """The losses on held-out text, none left out but those that are not finite."""
    losses = [(record["step"], number(record, "loss")) for record in stage.validations]
    return [Point(step=step, value=loss, low=loss, high=loss) for step, loss in losses if loss is not None]


def value_span(panel: Panel, points: Sequence[Point], validations: Sequence[Point]) -> list[float]:
    """What the axis spans: all validations, and the line but for its highest fiftieth.

    That is the fall from ln V in the first steps, which would flatten everything after it. It comes in through the top.
    """
    values, held_out = ([point.value for point in series] for series in (points, validations))
    low = min(*values, *held_out, 0.0 if panel.zero else np.inf)
    high = max(float(np.quantile(values, 0.98)), *held_out, low)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return [low if panel.zero else low - margin, high + margin]


def guard_layers(panel: Panel, stage: Stage) -> list[Spec]:
    """A dashed line through every panel for each event, with its number in the list above the first panel."""
    events = [
        {"step": record["step"], "number": str(n)} for n, record in enumerate(stage.guards[:EVENTS_SHOWN], start=1)
    ]
    rule = {"type": "rule", "color": INK, "strokeDash": [2, 3], "opacity": 0.7}
    numeral = {"type": "text", "color": INK, "fontWeight": "bold", "y": -7}
    marks = [(rule, {}), (numeral, {"text": {"field": "number"}})] if panel is PANELS[0] else [(rule, {})]
    return [{"data": {"values": events}, "mark": mark, "encoding": places} for mark, places in marks if events]


def caption_layers(panel: Panel, stage: Stage) -> list[Spec]:
    """The panel's name above its left end, and above its right end what to remember of it."""
    title = f"{panel.title}, {stage.loss_unit}" if panel.key == "loss" and stage.loss_unit else panel.title
    captions = [
        (title, "left", str(-AXIS_WIDTH), INK, "bold"),
        (note(panel, stage), "right", "width", MUTED, "normal"),
    ]
    if panel.key == "loss" and stage.validations:
        captions += [
            ("\u25cf validation", "right", "width", ACCENT, "bold"),
            ("\u2013 training", "right", "width - 82", MUTED, "bold"),
        ]
    mark = {"type": "text", "baseline": "bottom", "y": -26 if panel.key == "loss" else -12}
    return [
        {
            "data": {"values": [{}]},
            "mark": mark | {"text": text, "align": align, "x": {"expr": x}, "color": color, "fontWeight": weight},
            "encoding": {"x": None},
        }
        for text, align, x, color, weight in captions
        if text
    ]


def note(panel: Panel, stage: Stage) -> str:
    """The peak of the rate, the middle of the gradient, the usual speed and how much of the machine it uses."""
    middle, mfu = median(stage.steps, panel.key), median(stage.steps, "mfu")
    if middle is None or panel.key == "loss":
        return ""
    if panel.key == "lr":
        return f"peak {formats.scientific(max(finite(stage.steps, 'lr')))}"
    if panel.key == "grad_norm":
        return f"median {formats.significant(middle)}"
    return f"median {middle:,.0f}" + (f", MFU {formats.percent(mfu)}" if mfu is not None else "")


def to_svg(spec: Spec, width: int) -> str:
    """The drawing as an inline <svg> `width` units wide, without what HTML and a labelled figure do not need."""
    frame = {"left": 0, "right": 0, "top": 4, "bottom": 4}
    svg = vl_convert.vegalite_to_svg(spec | {"config": THEME, "background": "transparent", "padding": frame})
    svg = re.sub(r' (xmlns|xmlns:xlink|version|aria-[a-z]+|role)="[^"]*"', "", svg)
    return re.sub(r' width="\d+" height="\d+" viewBox="0 0 \d+ ', f' viewBox="0 0 {width} ', svg, count=1)


def with_own_names(svg: str, owner: str) -> str:
    """The drawing with clip paths that no other drawing on the page has, the same whenever it is drawn."""
    prefix = f"clip-{zlib.crc32(owner.encode()):08x}"
    names = {name: f"{prefix}-{n}" for n, name in enumerate(dict.fromkeys(re.findall(r'id="(clip\d+)"', svg)))}
    return re.sub(r'(id="|url\(#)(clip\d+)', lambda found: found[1] + names[found[2]], svg)
