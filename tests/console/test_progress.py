"""What a terminal and a log show of a run."""

import io
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from vesalius.console.progress import Progress, TerminalDisplay, stage_progress
from vesalius.core.errors import UserError
from vesalius.data.batch import Batch
from vesalius.train.config import TrainConfig
from vesalius.train.loop import fit


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=110, color_system=None)


def shown(console: Console) -> str:
    """Everything written so far without the codes that move the cursor."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", console.file.getvalue())  # type: ignore[attr-defined]


def moment(fraction: float, **values: Any) -> Any:
    return SimpleNamespace(**{
        "progress": fraction, "seconds": 300 * fraction, "step": round(900 * fraction),
        "tokens": round(900 * fraction) * 16_384, "stopped": "budget", **values,
    })  # fmt: skip


STEP = {"kind": "step", "step": 1, "loss": 3.25, "tok_per_s": 21_400.0, "mfu": 0.634}


def test_live_line_says_how_far_how_good_how_fast_and_how_long() -> None:
    screen = console(terminal=True)
    progress = Progress("train", screen, Clock())
    progress.on_start(moment(0.0))
    progress.on_event(moment(0.5), {"kind": "validation", "step": 1, "loss": 3.0, "bits_per_byte": 1.503})
    progress.on_step(moment(0.5), STEP)
    expected = "train  ━━━━━━━━━━────────── 50%  loss 3.250  1.503 bits/byte  21.4k tok/s  MFU 63%  2:30 left"
    assert expected in shown(screen).replace("  50%", " 50%")


def test_live_line_is_drawn_twice_a_second_at_most() -> None:
    screen, clock = console(terminal=True), Clock()
    progress = Progress("train", screen, clock)
    progress.on_start(moment(0.0))
    for _ in range(100):
        clock.now += 0.01
        progress.on_step(moment(0.5), STEP)
    assert shown(screen).count("tok/s") == 2


def test_log_has_a_line_after_ten_seconds_and_a_twentieth_of_the_way() -> None:
    log, clock = console(terminal=False), Clock()
    progress = Progress("train", log, clock)
    progress.on_start(moment(0.0))
    for second in range(1, 513):
        clock.now = float(second)
        progress.on_step(moment(second / 512), STEP)
    assert len(shown(log).splitlines()) == 512 // 26  # the first whole second after a twentieth of 512
    assert shown(log).splitlines()[0].startswith("train  5%  loss 3.250")


def test_log_of_a_long_run_has_a_line_a_minute() -> None:
    log, clock = console(terminal=False), Clock()
    progress = Progress("train", log, clock)
    progress.on_start(moment(0.0))
    for second in range(1, 601):
        clock.now = float(second)
        progress.on_step(moment(second / 36_000), STEP)
    assert len(shown(log).splitlines()) == 10


@pytest.mark.parametrize("terminal", [True, False])
def test_guard_events_stay_and_cannot_steer_the_terminal(terminal: bool) -> None:
    screen = console(terminal=terminal)
    progress = Progress("train", screen, Clock())
    progress.on_start(moment(0.0))
    progress.on_event(moment(0.4), {
        "kind": "guard", "step": 378, "event": "skip", "reason": "loss is not finite", "layer": "lm_head",
        "batch": "[red]evil\x1b[2J\n.py", "lr_scale": 1.0,
    })  # fmt: skip
    progress.on_stop(moment(0.4))
    assert "train: step 378 skip: loss is not finite (lm_head; batch [red]evil\ufffd[2J\ufffd.py)\n" in shown(screen)


@pytest.mark.parametrize(("stopped", "word"), [("budget", "done"), ("interrupted", "interrupted"), ("", "failed")])
def test_what_stays_of_a_stage_says_how_it_ended(stopped: str, word: str) -> None:
    log = console(terminal=False)
    progress = Progress("train", log, Clock())
    progress.on_start(moment(0.0))
    progress.on_step(moment(1.0), STEP)
    progress.on_event(moment(1.0), {"kind": "validation", "step": 900, "loss": 2.5})
    progress.on_stop(moment(1.0, stopped=stopped))
    assert shown(log) == f"train: {word}: 900 steps, 14.7M tokens, loss 3.250, held-out 2.500, 5:00\n"


def test_a_run_that_fails_before_its_start_shows_nothing() -> None:
    log = console(terminal=False)
    Progress("train", log, Clock()).on_stop(moment(0.0, stopped=""))
    assert shown(log) == ""


class Tokens:
    """Endless batches of one token after another."""

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        tokens = torch.arange(8)[None]
        return Batch(tokens=tokens, targets=tokens.roll(-1))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_the_training_loop_is_shown() -> None:
    log = console(terminal=False)
    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8))
    fit(
        model,
        Tokens(),
        lambda model, batch: (nn.functional.cross_entropy(model(batch.tokens)[0], batch.targets[0]), {}),
        torch.optim.SGD(model.parameters(), lr=0.1),
        lambda progress: 1.0,
        [Progress("train", log)],
        config=TrainConfig(steps=5, compile="off"),
    )
    assert re.fullmatch(r"train: done: 5 steps, 40 tokens, loss \d\.\d{3}, 0:0\d\n", shown(log))


def test_work_of_known_size_shows_its_part() -> None:
    screen, clock = console(terminal=True), Clock()
    with stage_progress("learning a tokenizer", 8_192, screen, clock) as advance:
        clock.now = 14.2
        advance(4_096)
    assert "━━━━━━━━━━──────────  50%  4.1k of 8.2k  0:14" in shown(screen)
    assert shown(screen).endswith("learning a tokenizer: 0:14\n")


def test_work_of_unknown_size_shows_its_amount() -> None:
    screen, clock = console(terminal=True), Clock()
    with stage_progress("encoding text", console=screen, clock=clock) as advance:
        clock.now = 3.0
        advance(12_345_678)
    assert "encoding text  12.3M  0:03" in shown(screen)


def test_work_that_fails_leaves_no_line_and_no_claim() -> None:
    log = console(terminal=False)
    with pytest.raises(UserError), stage_progress("encoding text", console=log):
        raise UserError("no such file")
    assert shown(log) == ""


def test_display_writes_to_standard_error_only(capsys: pytest.CaptureFixture[str]) -> None:
    display = TerminalDisplay()
    with display.stage("encoding text"):
        display.say("3 files are empty")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "3 files are empty\nencoding text: 0:00\n"


def test_display_watches_training_on_its_own_console() -> None:
    log = console(terminal=False)
    watcher = TerminalDisplay(log).training("sft")
    watcher.on_start(moment(0.0))
    watcher.on_stop(moment(0.0, stopped="interrupted"))
    assert shown(log) == "sft: interrupted: 0 steps, 0 tokens, 0:00\n"
