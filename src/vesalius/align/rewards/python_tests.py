"""The answer is Python that gives what the tests expect. The sandbox runs it; what is expected never goes there.

Values are compared here, and more strictly than Python's `==`: True is not 1, a tuple is no list. A whole number may
be given as a float that is equal, and floats may differ in their last digits.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vesalius.align.rewards.answers import whole
from vesalius.align.rewards.sandbox import Job, Limits, Outcome, run_jobs
from vesalius.align.rewards.verdict import Verdict
from vesalius.data.task import Case, Task

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class PythonTests:
    """1 where the answer passes all tests, else 0; with `partial` the share that it passes, which is easier to climb
    and to cheat: many tests expect the same constant."""

    partial: bool = False
    limits: Limits = field(default_factory=Limits)

    def __call__(self, task: Task, completion: str) -> Verdict:
        return self.many([task], [completion])[0]

    def many(self, tasks: Sequence[Task], completions: Sequence[str]) -> list[Verdict]:
        """The verdict on each, in order; as many run at once as there are processors."""
        codes = [python_code(completion) for completion in completions]
        jobs = [
            Job(code, task.function, tuple(case.arguments for case in task.cases))
            for task, code in zip(tasks, codes, strict=True)
            if code
        ]
        ran = iter(run_jobs(jobs, self.limits))
        return [
            self._judge(task, next(ran)) if code else Verdict(0.0, "no code")
            for task, code in zip(tasks, codes, strict=True)
        ]

    def _judge(self, task: Task, outcomes: list[Outcome]) -> Verdict:
        wrong = [_complaint(*pair) for pair in zip(task.cases, outcomes, strict=True)]
        reasons = [reason for reason in wrong if reason]
        passed = len(wrong) - len(reasons)
        value = passed / len(wrong) if self.partial else float(not reasons)
        return Verdict(value, f"{passed} of {len(wrong)} tests" + (f"; {reasons[0]}" if reasons else ""))


def python_code(completion: str) -> str:
    """The code of an answer: its last fenced block, or all of it where it has none; "" where there is none.

    >>> python_code("Here:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    said = whole(completion) or ""
    blocks = _BLOCK.findall(said)
    return blocks[-1] if blocks else said.replace("```", "")


def _complaint(case: Case, outcome: Outcome) -> str:
    """Why a test fails, "" where it passes."""
    if outcome.error:
        return outcome.error
    if same(outcome.value, case.expected):
        return ""
    return f"gave {repr(outcome.value)[:80]}, expected {repr(case.expected)[:80]}"


def same(ours: Any, expected: Any) -> bool:
    """Whether two plain values are the same.

    >>> same(2.0, 2), same(True, 1), same((1, 2), [1, 2]), same([0.1 + 0.2], [0.3])
    (True, False, False, True)
    """
    if isinstance(ours, bool) or isinstance(expected, bool):
        return ours is expected
    if isinstance(ours, int | float) and isinstance(expected, int | float):
        return _same_numbers(ours, expected)
    if type(ours) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        return len(ours) == len(expected) and all(map(same, ours, expected))
    if isinstance(expected, dict):
        return ours.keys() == expected.keys() and all(same(ours[key], expected[key]) for key in expected)
    return bool(ours == expected)


def _same_numbers(ours: float, expected: float) -> bool:
    if isinstance(ours, float) and isinstance(expected, float):
        return math.isclose(ours, expected, rel_tol=1e-9) or (math.isnan(ours) and math.isnan(expected))
    return ours == expected
