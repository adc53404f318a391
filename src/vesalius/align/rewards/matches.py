"""The answer is the right one: as a text, or as a number."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from vesalius.align.rewards.answers import FINDERS, NUMBER
from vesalius.align.rewards.verdict import Verdict
from vesalius.data.task import Task


@dataclass(frozen=True)
class ExactMatch:
    """1 where the answer is the task's, but for case, blanks and a full stop at its end; `where` as in FINDERS."""

    where: str = "whole"

    def __call__(self, task: Task, completion: str) -> Verdict:
        answer = FINDERS[self.where](completion)
        if answer is None:
            return Verdict(0.0, f"no single answer ({self.where})")
        right = _plain(answer) == _plain(task.answer)
        return Verdict(float(right), f"{answer[:80]!r} is {'right' if right else f'not {task.answer[:80]!r}'}")


@dataclass(frozen=True)
class NumberMatch:
    """1 where the answer is one number, and that is the task's: the same number where both tolerances are 0, else close
    to it as `math.isclose` has it."""

    where: str = "last"
    relative: float = 0.0
    absolute: float = 0.0

    def __call__(self, task: Task, completion: str) -> Verdict:
        answer = FINDERS[self.where](completion)
        if answer is None or not NUMBER.fullmatch(answer):
            return Verdict(0.0, f"no single number ({self.where})")
        right = self._same(_decimal(answer), _decimal(task.answer))
        return Verdict(float(right), f"{answer[:80]} is {'right' if right else f'not {task.answer[:80]}'}")

    def _same(self, ours: Decimal, theirs: Decimal) -> bool:
        if not self.relative and not self.absolute:
            return ours == theirs
        return math.isclose(float(ours), float(theirs), rel_tol=self.relative, abs_tol=self.absolute)


def _plain(text: str) -> str:
    """
    >>> _plain("  New   York. ")
    'new york'
    """
    return re.sub(r"\s+", " ", text).strip().removesuffix(".").casefold()


def _decimal(number: str) -> Decimal:
    return Decimal(number.replace(",", "").replace("−", "-"))
