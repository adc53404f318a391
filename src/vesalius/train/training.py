"""One run of the loop at one moment: everything that a checkpoint holds and a callback sees, and who watches it."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from vesalius.train import random_states
from vesalius.train.budget import Budget
from vesalius.train.config import TrainConfig
from vesalius.train.guard import Guard
from vesalius.train.objectives import Objective
from vesalius.train.precision import LossScaler, Precision
from vesalius.train.schedules import Schedule


class TrainingBatch(Protocol):
    """What the loop asks of a batch; data.Batch answers it, and so does every other stage's kind of batch."""

    @property
    def tokens(self) -> Tensor: ...  # what goes through the model: its size is what a budget in tokens counts
    @property
    def weight(self) -> int: ...  # targets: what a micro-batch weighs in the mean
    @property
    def source(self) -> str: ...
    def split(self, rows: int) -> Sequence[Self]: ...
    def to(self, device: torch.device | str) -> Self: ...


class BatchSource(Protocol):
    """Batches in order, with a JSON-able state from which the same batches go on."""

    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Callback:
    """Watches a run. Override what is of interest; the order of callbacks never matters."""

    def on_restore(self, run: "Training") -> None:
        """Before everything else: a stored run may be put back."""

    def on_start(self, run: "Training") -> None:
        """Before the first step; `run.step` is where the run goes on from."""

    def on_batch(self, run: "Training", batch: TrainingBatch) -> None:
        """A batch was fetched and will be trained on."""

    def measure(self, run: "Training", record: Mapping[str, Any]) -> dict[str, Any]:
        """Values to add to the record of a step before anybody sees it."""
        return {}

    def on_step(self, run: "Training", record: Mapping[str, Any]) -> None:
        """A step was taken."""

    def on_step_end(self, run: "Training") -> None:
        """Every callback has seen the step: the moment to save."""

    def on_event(self, run: "Training", record: Mapping[str, Any]) -> None:
        """Something else happened: a record of kind "guard", "validation" or "compile"."""

    def on_rollback(self, run: "Training") -> bool:
        """Weights and optimizer are to be put back; whether this callback did it."""
        return False

    def on_stop(self, run: "Training") -> None:
        """After the last step, also when an error ends the run: then `run.stopped` is ""."""


@dataclass(kw_only=True)
class Training:
    """What `fit` works on.

    lr_scale  what the guard has multiplied the learning rate by
    loss_of   the objective, compiled or not
    compiled  that it is compiled, or was in the run that is resumed: None while undecided
    stopped   why the run ended: "budget", "interrupted" or "data"; "" while it goes on
    """

    model: nn.Module
    batches: BatchSource
    objective: Objective
    optimizer: Optimizer
    schedule: Schedule
    config: TrainConfig
    callbacks: Sequence[Callback]

    step: int = 0
    tokens: int = 0
    lr_scale: float = 1.0
    compiled: bool | None = None
    stopped: str = ""
    step_seconds: float = 0.0  # of the last step; 0 before the first
    last_loss: float | None = None
    budget: Budget = field(init=False)
    guard: Guard = field(init=False)
    precision: Precision = field(init=False)
    scaler: LossScaler | None = field(init=False)
    loss_of: Objective = field(init=False)
    _seconds_before: float = 0.0
    _started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.budget, self.guard = Budget.of(self.config), Guard(self.config.guard)
        self.precision = Precision.choose(self.config.precision, self.device.type)
        self.scaler, self.loss_of = self.precision.scaler(), self.objective
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def seconds(self) -> float:
        """Since the run began, without the time between a kill and the resume."""
        return self._seconds_before + time.perf_counter() - self._started

    @property
    def progress(self) -> float:
        """The part of the budget that is used up."""
        return self.budget.progress(self.step, self.tokens, self.seconds)

    def interrupt(self) -> None:
        """Ends the run after the step that is being taken."""
        self.stopped = "interrupted"

    def count(self, batch: TrainingBatch, loss: float, seconds: float) -> None:
        """Takes a finished step into the totals."""
        self.step, self.tokens = self.step + 1, self.tokens + batch.tokens.numel()
        self.last_loss, self.step_seconds = loss, seconds
        if self.scaler:
            self.scaler.accept()

    def emit(self, kind: str, **fields: Any) -> None:
        """Tells every callback of an event."""
        record = {"kind": kind, **fields}
        for callback in self.callbacks:
            callback.on_event(self, record)

    def emit_guard(self, event: str, reason: str, *, layer: str = "", batch: str = "", step: int | None = None) -> None:
        """Tells of something bad, by default about the step that is being tried, and what was done."""
        where = {"step": self.step + 1 if step is None else step, "layer": layer, "batch": batch}
        self.emit("guard", event=event, reason=reason, lr_scale=self.lr_scale, **where)

    def state_dict(self) -> dict[str, Any]:
        """All but the tensors of model and optimizer, JSON-able."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "lr_scale": self.lr_scale,
            "compiled": self.compiled,
            "last_loss": self.last_loss,
            "precision": self.precision.name,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "guard": self.guard.state_dict(),
            "loader": self.batches.state_dict(),
            "random": random_states.capture(self.device.type),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state. Precision and compiling stay what they were: either changes the last bits of a loss."""
        self.step, self.tokens, self.lr_scale = state["step"], state["tokens"], state["lr_scale"]
        self.compiled, self.last_loss = state["compiled"], state["last_loss"]
        self._seconds_before, self._started = state["seconds"], time.perf_counter()
        self.precision = Precision(state["precision"], self.device.type).checked()
        self.scaler = self.precision.scaler()
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.guard.load_state_dict(state["guard"], self.device)
        self.batches.load_state_dict(state["loader"])
        random_states.restore(state["random"], self.device.type)
