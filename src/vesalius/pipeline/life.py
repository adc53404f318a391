"""What the stages of one run hand on: the recipe, the run directory, the model as it is by now, and how to tell a
person.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from vesalius.core.hardware import Rates, best_device, measure_rates
from vesalius.core.run_directory import RunDirectory
from vesalius.models.transformer import Transformer
from vesalius.pipeline.recipe import Recipe
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.training import Callback

Advance = Callable[[int], None]


class Display(Protocol):
    """How progress is shown: a terminal, a log, nothing."""

    def say(self, line: str) -> None:
        """One line of news."""

    def stage(self, description: str, total: int | None = None) -> contextlib.AbstractContextManager[Advance]:
        """A stretch of work; the advance function is called with how much of `total` is done by now."""

    def training(self, stage: str) -> Callback:
        """Watches one training stage."""


@dataclass
class Life:
    """One model's life in one run directory. `model` and `tokenizer` are set by the stages that make or open them,
    `made_conversations` and `made_pairs` name the files that stages made for the stages behind them."""

    recipe: Recipe
    run: RunDirectory
    display: Display
    device: str = field(default_factory=best_device)
    tokenizer: Tokenizer | None = None
    model: Transformer | None = None
    made_conversations: list[str] = field(default_factory=list)
    made_pairs: list[str] = field(default_factory=list)

    @cached_property
    def rates(self) -> Rates:
        """What this machine can do, measured once a run and recorded."""
        rates = measure_rates(self.device)
        self.run.add_evals(rates=vars(rates))
        return rates

    @property
    def made(self) -> tuple[Transformer, Tokenizer]:
        """The model and the tokenizer, where a stage needs both to be there."""
        assert self.model is not None, "an earlier stage makes it"
        assert self.tokenizer is not None, "an earlier stage makes it"
        return self.model, self.tokenizer

    def results(self, section: str) -> dict[str, Any]:
        """What evals.json has in a section, {} where it has nothing."""
        return self.run.read_evals().get(section, {})

    def add(self, section: str, **results: Any) -> None:
        """Adds results to a section of evals.json."""
        self.run.add_evals(**{section: self.results(section) | results})

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds that pass inside to what the stage has taken in earlier tries."""
        started = time.perf_counter()
        try:
            yield
        finally:
            before = self.results("seconds").get(stage, 0.0)
            self.add("seconds", **{stage: before + time.perf_counter() - started})
