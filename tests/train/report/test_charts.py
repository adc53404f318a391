"""The instrument strip as SVG."""

import re

import pytest

from vesalius.train.report.charts import NARROW, PANELS, WIDE, draw_stage, stage_curves
from vesalius.train.report.reading import Record, Stage


def stage(steps: list[Record], validations: list[Record] | None = None, guards: list[Record] | None = None) -> Stage:
    return Stage(name="train", steps=steps, validations=validations or [], guards=guards or [])


def drawn(subject: Stage, width: int = WIDE) -> str:
    return draw_stage(subject, stage_curves(subject), width)


FULL = {"loss": 3.0, "lr": 1e-3, "grad_norm": 1.0, "tok_per_s": 20_000.0, "mfu": 0.6}


def test_every_quantity_has_a_panel() -> None:
    svg = drawn(stage([{"step": n, **FULL} for n in range(1, 9)]))
    titles = ["Loss, nats per token", *(panel.title for panel in PANELS[1:])]
    assert all(f">{title}</text>" in svg for title in titles)


def test_a_quantity_that_was_never_recorded_has_no_panel() -> None:
    svg = drawn(stage([{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]))
    assert "Loss, nats per token" in svg
    assert "Gradient norm" not in svg


def test_without_any_value_there_is_nothing_to_draw() -> None:
    assert stage_curves(stage([{"step": 1, "loss": float("nan")}])) == {}


def test_each_validation_is_a_dot_in_the_accent() -> None:
    steps = [{"step": n, **FULL} for n in range(1, 9)]
    svg = drawn(stage(steps, [{"step": n, "loss": 3.1} for n in (2, 4, 8)]))
    dots = [mark for mark in re.findall(r"<path [^>]*>", svg) if 'stroke="var(--paper)"' in mark]
    assert len(dots) == 3
    assert all('fill="var(--accent)"' in dot for dot in dots)


def test_guard_events_cross_every_panel_and_are_numbered_once() -> None:
    steps = [{"step": n, **FULL} for n in range(1, 9)]
    svg = drawn(stage(steps, guards=[{"step": 3, "event": "skip"}, {"step": 5, "event": "rollback"}]))
    assert svg.count('stroke-dasharray="2,3"') == 2 * len(PANELS)
    assert re.findall(r'font-weight="bold"[^>]*>(\d)</text>', svg) == ["1", "2"]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_stage_of_few_steps_can_be_drawn(steps: int) -> None:
    assert "NaN" not in drawn(stage([{"step": n, **FULL} for n in range(1, steps + 1)]))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_drawing_has_the_width_that_was_asked_for_and_only_the_colours_of_the_page(width: int) -> None:
    svg = drawn(stage([{"step": n, **FULL} for n in range(1, 9)], [{"step": 4, "loss": 3.0}]), width)
    assert f'viewBox="0 0 {width} ' in svg
    colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg))
    assert {colour for colour in colours if not colour.startswith("var(--")} <= {"none", "transparent"}


def test_clip_paths_of_different_drawings_do_not_share_names() -> None:
    subject = stage([{"step": n, **FULL} for n in range(1, 9)])
    wide, narrow = (set(re.findall(r'id="([^"]*)"', drawn(subject, width))) for width in (WIDE, NARROW))
    assert wide
    assert not wide & narrow
