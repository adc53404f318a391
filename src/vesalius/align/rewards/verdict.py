"""What a reward says of an answer, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vesalius.data.task import Task


@dataclass(frozen=True)
class Verdict:
    """value   from 0 to 1; `float(verdict)` is it
    reason  in words, for reports and for whoever looks for tricks
    parts   where rewards were composed: the value of each by its name
    """

    value: float
    reason: str
    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"a reward of {self.value}, expected 0 to 1")

    def __float__(self) -> float:
        return self.value


class Reward(Protocol):
    """How good an answer to a task is."""

    def __call__(self, task: Task, completion: str, /) -> Verdict:
        """The verdict on one answer, the same each time."""
