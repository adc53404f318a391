"""The callbacks that most runs have: records, validation, utilisation; and the load of a mixture's experts."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from vesalius.core.run_directory import RunDirectory
from vesalius.models.balance import expert_statistics
from vesalius.train.training import Callback, Training


class RunLogger(Callback):
    """Writes every record to metrics.jsonl under the name of a stage.

    At the start it drops the stage's records that are newer than where the run goes on from.
    """

    def __init__(self, directory: RunDirectory, stage: str) -> None:
        self.directory, self.stage = directory, stage

    def on_start(self, run: Training) -> None:
        self.directory.keep_metrics(
            lambda record: record.get("stage") != self.stage or record.get("step", 0) <= run.step
        )

    def on_step(self, run: Training, record: Mapping[str, Any]) -> None:
        self._write(record)

    def on_event(self, run: Training, record: Mapping[str, Any]) -> None:
        self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        self.directory.log(**{"kind": record["kind"], "stage": self.stage, **record})


class Validation(Callback):
    """Emits what `evaluate` finds, such as loss and bits_per_byte, as an event of kind "validation".

    It does so every `every` steps and after the last one, in evaluation mode. Nothing found, nothing told.
    """

    def __init__(self, every: int, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> None:
        self.every, self.evaluate = every, evaluate
        self.last_step = 0

    def on_start(self, run: Training) -> None:
        self.last_step = run.step

    def on_step(self, run: Training, record: Mapping[str, Any]) -> None:
        if run.step % self.every == 0 or run.stopped == "budget":
            self._validate(run)

    def on_stop(self, run: Training) -> None:
        if run.stopped == "data" and run.step > self.last_step:
            self._validate(run)

    def _validate(self, run: Training) -> None:
        self.last_step = run.step
        run.model.eval()
        values = self.evaluate(run.model)
        run.model.train()
        if values:
            run.emit("validation", step=run.step, tokens=run.tokens, **values)


class Throughput(Callback):
    """Adds "mfu" to each step's record: the part of `peak_flops` (FLOP/s, core.hardware) that the model's own
    operations reach.

    `flops_per_token` counts forward and backward, 3 times models.counts.count_flops. Chowdhery et al. 2022,
    arXiv:2204.02311, appendix B.
    """

    def __init__(self, flops_per_token: float, peak_flops: float) -> None:
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops

    def measure(self, run: Training, record: Mapping[str, Any]) -> dict[str, float]:
        return {"mfu": self.flops_per_token * record["tok_per_s"] / self.peak_flops}


class ExpertLoad(Callback):
    """Adds to each step's record how unevenly a mixture's experts were used, in the layer where it was worst.

    moe_load     the load of the busiest expert, times its even share: 1 where all are used alike
    moe_dropped  the share of choices that full experts did not take
    """

    def measure(self, run: Training, record: Mapping[str, Any]) -> dict[str, float]:
        layers = expert_statistics(run.model).values()
        return {
            "moe_load": max(len(layer.load) * float(layer.load.max()) for layer in layers),
            "moe_dropped": max(layer.dropped_share for layer in layers),
        }
