"""One stage of training as the page shows it: a sentence, the instrument strip, what the guard did."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from vesalius.train.report import formats
from vesalius.train.report.charts import EVENTS_SHOWN, NARROW, WIDE, draw_stage, stage_curves
from vesalius.train.report.reading import Record, Stage, finite, number

EVENTS = {"skip": "Step skipped", "rollback": "Rolled back", "warning": "Warning"}
READINGS = {
    "loss": formats.significant,
    "lr": formats.scientific,
    "grad_norm": formats.significant,
    "tok_per_s": formats.count,
    "mfu": formats.percent,
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that the guard did, under the number that marks it in the drawing."""

    number: int
    step: int
    title: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class StageSection:
    """`wide` and `narrow` are the same drawing for two widths; `readings` is the JSON under the pointer."""

    title: str
    summary: str
    span: str
    wide: Markup
    narrow: Markup
    readings: Markup
    events: list[Event]
    events_left_out: int


def stage_section(stage: Stage) -> StageSection | None:
    """The stage drawn and told; None where it has nothing to draw."""
    if not (curves := stage_curves(stage)):
        return None
    return StageSection(
        title=stage.title,
        summary=summary(stage),
        span="{:g} {:g}".format(*stage.span),
        wide=Markup(draw_stage(stage, curves, WIDE)),
        narrow=Markup(draw_stage(stage, curves, NARROW)),
        readings=readings(stage),
        events=[event(place, record) for place, record in enumerate(stage.guards[:EVENTS_SHOWN], start=1)],
        events_left_out=max(0, len(stage.guards) - EVENTS_SHOWN),
    )


def summary(stage: Stage) -> str:
    """Steps, tokens, and how far the loss on held-out text (else on training text) came."""
    text = f"{stage.last_step:,} steps over {formats.count(stage.tokens)} tokens."
    for kind, records in (("Validation", stage.validations), ("Training", stage.steps)):
        if len(losses := finite(records, "loss")) > 1:
            verb = "fell" if losses[-1] < losses[0] else "rose"
            return (
                f"{text} {kind} loss {verb} from {losses[0]:.2f} to {losses[-1]:.2f} {stage.loss_unit}".rstrip() + "."
            )
    return text


def event(place: int, record: Record) -> Event:
    """A guard record in words; what it does not name is left out."""
    scale = number(record, "lr_scale")
    parts = (
        record.get("reason"),
        f"in {record['layer']}" if record.get("layer") else None,
        f"batch: {record['batch']}" if record.get("batch") else None,
        f"learning rate \u00d7{formats.NARROW}{scale:g}" if scale not in (None, 1) else None,
    )
    title = EVENTS.get(record.get("event", ""), "Event")
    return Event(
        number=place, step=int(record["step"]), title=title, detail="; ".join(str(part) for part in parts if part)
    )


def readings(stage: Stage, count: int = 240) -> Markup:
    """JSON of at most about `count` steps, for the script that shows the values under the pointer.

    [step, training loss, learning rate, gradient norm, tokens/s, MFU, last validation loss], all but the step in words.
    """
    rows = [
        [record["step"], *(words(record, key) for key in READINGS), validation]
        for record, validation in with_last_validation(stage, stride=max(1, len(stage.steps) // count))
    ]
    return Markup(json.dumps(rows, separators=(",", ":")).replace("<", "\\u003c"))


def with_last_validation(stage: Stage, *, stride: int) -> Iterator[tuple[Record, str]]:
    """Every `stride`-th step record with the validation loss that stood at that time."""
    validations = sorted(stage.validations, key=lambda record: record["step"])
    at, last = 0, ""
    for record in stage.steps[::stride]:
        while at < len(validations) and validations[at]["step"] <= record["step"]:
            last, at = words(validations[at], "loss"), at + 1
        yield record, last


def words(record: Record, key: str) -> str:
    """One value of a record as text, "" where it has none."""
    value = number(record, key)
    return "" if value is None else READINGS[key](value)
