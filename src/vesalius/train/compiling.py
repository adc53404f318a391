"""torch.compile, where the time that is left pays it back.

Compiling fuses a model's small operations. On CPU cores it takes half a minute, and then shortens the steps of a small
model by 8 to 15 % (bench/RESULTS.md). So a run of a few minutes is better off without it.
"""

import time

import torch
from torch import Tensor, nn

from vesalius.core.errors import UserError
from vesalius.train import random_states
from vesalius.train.objectives import Objective
from vesalius.train.training import Training, TrainingBatch

COMPILE_SECONDS = 60.0
GAIN = 0.10
MARGIN = 1.5
"""The first two are rounded up from what was measured, other machines differ, so the gain must be clear: a run pays
from 15 minutes on.
"""

STEPS_TO_TIME = 3
"""Steps before the length of one is believed: the first waits for memory."""


def pays_back(seconds_left: float) -> bool:
    """Whether the time that compiling saves exceeds the time that it takes.

    >>> pays_back(10 * 60), pays_back(20 * 60)
    (False, True)
    """
    return seconds_left * GAIN > MARGIN * COMPILE_SECONDS


def compile_where_it_pays(run: Training, batch: TrainingBatch) -> float:
    """Before a step: decides once, compiles on rows of `batch`, and returns the seconds it took, 0 mostly.

    A budget in minutes decides at once, one in steps or tokens once steps were timed. A resumed run does what it did
    before. The event "compile" tells the time. UserError where compiling was asked for and fails; where it was the
    machine's own choice, a warning.
    """
    if run.loss_of is not run.objective or not _wanted(run):
        return 0.0
    compiled = _compiled(run.objective)
    started = time.perf_counter()
    try:
        _rehearse(run, compiled, batch)
    except RuntimeError as error:  # what torch's compilers raise
        run.compiled = False
        reason = f"torch.compile failed ({str(error).strip().splitlines()[0]})"
        if run.config.compile == "on":
            raise UserError(f'{reason}: set train.compile = "off", or install a C++ compiler') from error
        run.emit_guard("warning", f"{reason}; training goes on without it")
        return time.perf_counter() - started
    run.loss_of = compiled
    seconds = time.perf_counter() - started
    run.emit("compile", step=run.step, seconds=seconds)
    return seconds


def _wanted(run: Training) -> bool:
    if run.compiled is None and run.config.compile != "auto":
        run.compiled = run.config.compile == "on"
    if run.compiled is None and (left := _seconds_left(run)) is not None:
        run.compiled = pays_back(left)
    return bool(run.compiled)


def _seconds_left(run: Training) -> float | None:
    """Until the budget is used up; None while that can't be told."""
    if run.budget.minutes is not None:
        return 60 * run.budget.minutes - run.seconds
    if run.step < STEPS_TO_TIME or not run.step_seconds:
        return None
    return run.step_seconds * run.step * (1 / run.progress - 1)


def _compiled(objective: Objective) -> Objective:
    @torch.compile(dynamic=False)
    def loss_of(model: nn.Module, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(model, batch)

    return loss_of


def _rehearse(run: Training, loss_of: Objective, batch: TrainingBatch) -> None:
    """One forward and backward pass that leaves no trace, so that compiling is timed apart and no step is slow."""
    rows = run.config.micro_batch_rows
    part = batch.split(rows)[0] if rows else batch
    before = random_states.capture(run.device.type)
    try:
        with run.precision.autocast():
            loss, _ = loss_of(run.model, part.to(run.device))
        loss.backward()
    finally:
        run.optimizer.zero_grad()
        random_states.restore(before, run.device.type)
