"""What a run left behind, read so that an interrupted run reads as well as a finished one.

Only recipe.toml, metrics.jsonl and evals.json are opened, and any of them may be missing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vesalius.core.run_directory import RunDirectory

Record = dict[str, Any]
STAGE_TITLES = {
    "train": "Pretraining",
    "sft": "Instruction tuning",
    "distill": "Distillation",
    "dpo": "Preferences between answers",
    "kto": "Preferences from rated answers",
    "grpo": "Reinforcement by comparison",
    "ppo": "Reinforcement with a critic",
    "reward": "Reward model",
    "prm": "Process reward model",
    "heads": "Multi-token heads",
}
LOSS_UNITS = {"dpo": "", "kto": "", "grpo": "", "ppo": "", "reward": "", "prm": "nats per step"}
"""Of the stages whose loss is not nats per token."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The records of one stage (train, sft, …) in the order in which they were written."""

    name: str
    steps: list[Record]
    validations: list[Record]
    guards: list[Record]

    @property
    def title(self) -> str:
        """The name as a heading."""
        return STAGE_TITLES.get(self.name, self.name)

    @property
    def loss_unit(self) -> str:
        """What the loss is counted in; "" where that depends on the recipe."""
        return LOSS_UNITS.get(self.name, "nats per token")

    @cached_property
    def seconds(self) -> float:
        """How long the stage had run at its last step; 0 where no record says it."""
        return max(finite(self.steps, "seconds"), default=0.0)

    @cached_property
    def tokens(self) -> float:
        """How many tokens the stage had trained on at its last step."""
        return max(finite(self.steps, "tokens"), default=0)

    @cached_property
    def last_step(self) -> int:
        """The highest step that any record names; 0 where there is none."""
        return max((int(record["step"]) for record in (*self.steps, *self.validations, *self.guards)), default=0)

    @cached_property
    def span(self) -> tuple[float, float]:
        """First and last step of any record; never of no width, so that a stage of one step can be drawn."""
        steps = [float(record["step"]) for record in (*self.steps, *self.validations, *self.guards)] or [0.0]
        return min(steps), max(max(steps), min(steps) + 1)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the page is made from. `evals` is the whole of evals.json, {} where there is none."""

    name: str
    recipe: str
    stages: tuple[Stage, ...]
    evals: Record

    @property
    def finished(self) -> bool:
        """What the run itself says in evals.json; where it says nothing, whether the model was measured."""
        return bool(self.evals.get("finished", "model" in self.part("bits_per_byte")))

    @property
    def stopped_at(self) -> str:
        """Where an unfinished run stands, in words."""
        last = self.stages[-1] if self.stages else None
        return f"step {last.last_step:,} of {last.title.lower()}" if last else "its beginning"

    @property
    def hardware(self) -> str:
        """The machine in one line, "" where it is not known."""
        return str(self.evals.get("hardware") or "")

    @cached_property
    def seconds(self) -> dict[str, float]:
        """How long each part took; for a stage that was not finished, how long it had run."""
        running = {stage.name: stage.seconds for stage in self.stages if stage.seconds}
        return running | self.amounts("seconds")

    def part(self, *names: str) -> Record:
        """A section, or a section of a section, of evals.json; {} where it is missing."""
        found = self.evals
        for name in names:
            found = found.get(name) or {}
        return found

    def amounts(self, *names: str) -> dict[str, float]:
        """The finite numbers of a section by name."""
        part = self.part(*names)
        return {key: value for key in part if (value := number(part, key)) is not None}


def read_run(run: RunDirectory) -> Run:
    """The records of a run, grouped by stage. VesaliusError where evals.json is not JSON."""
    recipe = run.recipe.read_text("utf-8", errors="replace") if run.recipe.exists() else ""
    records = [record for record in run.read_metrics() if number(record, "step") is not None]
    names = list(dict.fromkeys(record.get("stage", "train") for record in records))
    stages = tuple(stage_of([r for r in records if r.get("stage", "train") == name], name) for name in names)
    return Run(name=run.root.resolve().name, recipe=recipe, stages=stages, evals=run.read_evals())


def stage_of(records: list[Record], name: str) -> Stage:
    """The records of one stage, sorted by what they are; kinds that the page does not show are left out."""
    steps, validations, guards = (
        [record for record in records if record.get("kind") == kind] for kind in ("step", "validation", "guard")
    )
    return Stage(name=name, steps=steps, validations=validations, guards=guards)


def number(record: Record, key: str) -> float | None:
    """The finite number under `key`, else None: a step that went wrong may hold NaN, another nothing."""
    value = record.get(key)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def finite(records: Iterable[Record], key: str) -> list[float]:
    """The finite numbers under `key`, in order."""
    return [value for record in records if (value := number(record, key)) is not None]
