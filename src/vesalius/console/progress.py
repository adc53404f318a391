"""How far a run is: one live line in a terminal, now and then a plain line in a log.

    train  ━━━━━━━━━━╸─────────  52%  loss 3.412  1.503 bits/byte  21.4k tok/s  MFU 63%  2:24 left

The words are only put together when the line is due, which is twice a second: any other step costs a microsecond. What
happened on the way (the guard, a compilation) stands above the line for good. Everything goes to standard error, so
that standard output stays for what programs read.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from vesalius.console.line import Clock, Line, clock_time, open_line, printable, short
from vesalius.train.training import Callback, Training

Advance = Callable[[int], None]

SMOOTHING = 0.9
"""How much of the shown loss and speed is of earlier steps."""


class Progress(Callback):
    """Shows one stage of training: how far, loss, quality on held-out text, speed, time left."""

    def __init__(self, stage: str, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        self.stage, self.clock = stage, clock
        self.console = console or Console(stderr=True)
        self.line: Line | None = None
        self.loss: float | None = None
        self.speed = 0.0
        self.held_out = ""

    def on_start(self, run: Training) -> None:
        self.line = open_line(self.stage, self.console, self.clock)

    def on_step(self, run: Training, record: Mapping[str, Any]) -> None:
        if self.line is None:
            return
        keep = SMOOTHING if self.loss is not None else 0.0
        self.loss = keep * (self.loss or 0.0) + (1 - keep) * record["loss"]
        self.speed = keep * self.speed + (1 - keep) * record["tok_per_s"]
        if self.line.due(run.progress):
            self.line.show(run.progress, self._words(run, record))

    def on_event(self, run: Training, record: Mapping[str, Any]) -> None:
        if record["kind"] == "validation":
            self.held_out = held_out_words(record) or self.held_out
        elif self.line is not None and record["kind"] == "guard":
            self.line.say(f"{self.stage}: {guard_words(record)}", style="yellow")
        elif self.line is not None and record["kind"] == "compile":
            self.line.say(f"{self.stage}: compiled in {clock_time(record['seconds'])}")

    def on_stop(self, run: Training) -> None:
        if self.line is None:
            return
        self.line.close()
        self.line.say(f"{self.stage}: {self._summary(run)}")
        self.line = None

    def _words(self, run: Training, record: Mapping[str, Any]) -> str:
        left = run.seconds * (1 / run.progress - 1) if run.progress else None
        parts = [
            f"loss {self.loss:.3f}",
            self.held_out,
            f"{short(self.speed)} tok/s",
            f"MFU {100 * record['mfu']:.0f}%" if "mfu" in record else "",
            f"{clock_time(left)} left" if left is not None else "",
        ]
        return "  ".join(part for part in parts if part)

    def _summary(self, run: Training) -> str:
        """What stays in the terminal when the stage is over."""
        ends = {"budget": "done", "data": "done, the data ended", "interrupted": "interrupted", "": "failed"}
        loss = f"loss {self.loss:.3f}" if self.loss is not None else ""
        parts = [f"{run.step:,} steps", f"{short(run.tokens)} tokens", loss, self.held_out, clock_time(run.seconds)]
        return f"{ends[run.stopped]}: {', '.join(part for part in parts if part)}"


class TerminalDisplay:
    """All that a run shows in a terminal or a log."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def say(self, line: str) -> None:
        """One line of news."""
        self.console.print(Text(printable(line)), soft_wrap=True)

    def stage(self, description: str, total: int | None = None) -> contextlib.AbstractContextManager[Advance]:
        """A stretch of work, as `stage_progress`."""
        return stage_progress(description, total, self.console)

    def training(self, stage: str) -> Callback:
        """Watches one training stage."""
        return Progress(stage, self.console)


@contextlib.contextmanager
def stage_progress(
    description: str, total: int | None = None, console: Console | None = None, clock: Clock = time.monotonic
) -> Iterator[Advance]:
    """Shows a stretch of work; the function that it yields is called with how much of `total` is done by now.

    Without a `total` the amount itself is shown. When the work is done, the time that it took stays.
    """
    started = clock()
    line = open_line(description, console or Console(stderr=True), clock, ticking=True)

    def advance(done: int) -> None:
        fraction = min(1.0, done / total) if total else None
        if line.due(fraction):
            line.show(fraction, f"{short(done)} of {short(total)}" if total else short(done))

    try:
        yield advance
    except BaseException:
        line.close()
        raise
    line.close()
    line.say(f"{line.description}: {clock_time(clock() - started)}")


def held_out_words(record: Mapping[str, Any]) -> str:
    """The result of a validation: bits per byte where they were measured, else the loss."""
    if "bits_per_byte" in record:
        return f"{record['bits_per_byte']:.3f} bits/byte"
    return f"held-out {record['loss']:.3f}" if "loss" in record else ""


def guard_words(record: Mapping[str, Any]) -> str:
    """A guard event in one line: "step 378 skip: loss is not finite (lm_head; batch zipfile.py)"."""
    names = [record.get("layer"), f"batch {record['batch']}" if record.get("batch") else None]
    where = "; ".join(name for name in names if name)
    return printable(f"step {record['step']} {record['event']}: {record['reason']}{f' ({where})' if where else ''}")
