"""The only training loop (contract 3). Objective and batch source say what is trained; the loop keeps the order.

    next batch → lint → gradients, by micro-batches → guard → clip → rate → optimizer → record → callbacks

The budget may be in steps, tokens or minutes, and the schedule follows it; a step's rate is the schedule's value at its
middle, so neither the first nor the last step is lost to a rate of 0. A step waits for the device once, to read the
loss, the gradient norm and the metrics together. Ctrl-C and SIGTERM finish the step, save and return. With the same
seed, batches and budget in steps or tokens, every loss is the same bit for bit on a CPU, however often the run was
killed and resumed; minutes depend on the clock. Left out: several devices (parallel/).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from vesalius.train.compiling import compile_where_it_pays
from vesalius.train.config import TrainConfig
from vesalius.train.gradients import accumulate_gradients, clip_gradients, gradient_norms
from vesalius.train.interrupts import calls_on_interrupt
from vesalius.train.linter import BatchLinter
from vesalius.train.objectives import Objective
from vesalius.train.recovery import recover
from vesalius.train.schedules import Schedule
from vesalius.train.training import BatchSource, Callback, Training, TrainingBatch


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Where a run ended. `stopped`: "budget", "interrupted" or "data"; `loss` is the last step's, None without one."""

    step: int
    tokens: int
    seconds: float
    loss: float | None
    stopped: str


def fit(
    model: nn.Module,
    batches: BatchSource,
    objective: Objective,
    optimizer: Optimizer,
    schedule: Schedule,
    callbacks: Sequence[Callback] = (),
    *,
    config: TrainConfig,
) -> FitResult:
    """Trains `model` in place until the budget is used up, the batches end, or someone interrupts.

    UserError where the data have nothing to learn from, VesaliusError where the guard cannot recover or a disk is full.
    """
    torch.manual_seed(config.seed)
    run = Training(
        model=model,
        batches=batches,
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        config=config,
        callbacks=callbacks,
    )
    with calls_on_interrupt(run.interrupt):
        try:
            _start(run)
            linter = BatchLinter()
            while not run.stopped:
                _take_step(run, linter)
        except BaseException:
            run.stopped = ""
            raise
        finally:
            for callback in callbacks:
                callback.on_stop(run)
    return FitResult(step=run.step, tokens=run.tokens, seconds=run.seconds, loss=run.last_loss, stopped=run.stopped)


def _start(run: Training) -> None:
    for callback in run.callbacks:
        callback.on_restore(run)
    for callback in run.callbacks:
        callback.on_start(run)
    run.model.train()
    run.optimizer.zero_grad()
    _stop_where_the_budget_ends(run)


def _take_step(run: Training, linter: BatchLinter) -> None:
    started = time.perf_counter()
    batch = next(run.batches, None)
    if batch is None:
        run.stopped = run.stopped or "data"
        return
    if linter.refuses(run, batch):
        return
    for callback in run.callbacks:
        callback.on_batch(run, batch)
    started += compile_where_it_pays(run, batch)  # told apart

    loss, metrics = accumulate_gradients(run, batch)
    norms = gradient_norms(run.model)  # (P,)
    loss_value, grad_norm, *metric_values = _read(loss, torch.linalg.vector_norm(norms), *metrics.values())
    if fault := run.guard.inspect(loss_value, grad_norm):
        recover(run, fault, batch, norms)
        return
    run.guard.accept(loss_value, grad_norm, norms)
    clip_gradients(run, grad_norm)
    rate = _set_rate(run, batch)
    run.optimizer.step()
    run.optimizer.zero_grad()

    run.count(batch, loss_value, time.perf_counter() - started)
    _stop_where_the_budget_ends(run)
    _record(run, batch, lr=rate, grad_norm=grad_norm, **dict(zip(metrics, metric_values, strict=True)))


def _read(*values: Tensor) -> list[float]:
    """The numbers in scalar tensors: the one place where a step waits for the device."""
    return torch.stack([value.float() for value in values]).tolist()


def _set_rate(run: Training, batch: TrainingBatch) -> float:
    """Sets every group's rate for this step and returns the first group's."""
    middle = run.budget.progress(run.step + 0.5, run.tokens + batch.tokens.numel() / 2, run.seconds)
    multiplier = run.schedule(middle) * run.lr_scale
    for group in run.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier
    return run.optimizer.param_groups[0]["lr"]


def _record(run: Training, batch: TrainingBatch, **values: float) -> None:
    """Tells the callbacks of the step, with what they measure themselves."""
    record = {"kind": "step", "step": run.step, "tokens": run.tokens, "loss": run.last_loss, **values}
    record |= {"tok_per_s": batch.tokens.numel() / run.step_seconds, "seconds": run.seconds}
    for callback in run.callbacks:
        record |= callback.measure(run, record)
    for callback in run.callbacks:
        callback.on_step(run, record)
    for callback in run.callbacks:
        callback.on_step_end(run)


def _stop_where_the_budget_ends(run: Training) -> None:
    if run.progress >= 1:
        run.stopped = run.stopped or "budget"
