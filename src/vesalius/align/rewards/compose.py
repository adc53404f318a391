"""Several rewards as one: each weighs as it is told, and an answer that is too long loses some of what it earned.

`build_reward` makes one by the names that a recipe gives. "verified" is the one that matters: whether the answer is
right, by whatever the task's kind is checked with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vesalius.align.rewards.answers import FINDERS
from vesalius.align.rewards.formats import format_reward, tag_reward
from vesalius.align.rewards.json_schema import schema_reward
from vesalius.align.rewards.learned import LearnedReward
from vesalius.align.rewards.matches import ExactMatch, NumberMatch
from vesalius.align.rewards.python_tests import PythonTests
from vesalius.align.rewards.verdict import Reward, Verdict
from vesalius.core.errors import UserError, nearest
from vesalius.data.task import Task


@dataclass(frozen=True)
class Verified:
    """Judges an answer by its task's kind."""

    by_kind: Mapping[str, Reward]

    def __call__(self, task: Task, completion: str) -> Verdict:
        return self.by_kind[task.kind](task, completion)

    def many(self, tasks: Sequence[Task], completions: Sequence[str]) -> list[Verdict]:
        """The verdict on each, in order."""
        verdicts: dict[int, Verdict] = {}
        for kind, reward in self.by_kind.items():
            places = [place for place, task in enumerate(tasks) if task.kind == kind]
            judged = judge_many(reward, [tasks[place] for place in places], [completions[place] for place in places])
            verdicts |= zip(places, judged, strict=True)
        return [verdicts[place] for place in range(len(tasks))]


@dataclass(frozen=True)
class Weighted:
    """The mean of several rewards, each with its weight: between 0 and 1 as they are. What is wrong can still have
    form, so "verified" should weigh the most."""

    rewards: Mapping[str, tuple[float, Reward]]

    def __call__(self, task: Task, completion: str) -> Verdict:
        return self.many([task], [completion])[0]

    def many(self, tasks: Sequence[Task], completions: Sequence[str]) -> list[Verdict]:
        """The verdict on each, in order."""
        columns = [judge_many(reward, tasks, completions) for _, reward in self.rewards.values()]
        return [self._mean(row) for row in zip(*columns, strict=True)]

    def _mean(self, verdicts: tuple[Verdict, ...]) -> Verdict:
        weights = [weight for weight, _ in self.rewards.values()]
        total = sum(weight * verdict.value for weight, verdict in zip(weights, verdicts, strict=True))
        named = dict(zip(self.rewards, verdicts, strict=True))
        reason = "; ".join(f"{name}: {verdict.reason}" for name, verdict in named.items())
        parts = {name: verdict.value for name, verdict in named.items()}
        return Verdict(min(total / sum(weights), 1.0), reason, parts)


@dataclass(frozen=True)
class LengthPenalty:
    """What `reward` gives, times a factor that falls from 1 at `free` characters to 0 at `most`: the soft overlong
    punishment of DAPO (Yu et al. 2025, arXiv:2503.14476, equation 13), as a factor, so that nothing is below 0."""

    reward: Reward
    free: int
    most: int

    def __call__(self, task: Task, completion: str) -> Verdict:
        return self.many([task], [completion])[0]

    def many(self, tasks: Sequence[Task], completions: Sequence[str]) -> list[Verdict]:
        """The verdict on each, in order."""
        return [
            self._shortened(verdict, len(completion))
            for verdict, completion in zip(judge_many(self.reward, tasks, completions), completions, strict=True)
        ]

    def _shortened(self, verdict: Verdict, length: int) -> Verdict:
        factor = min(1.0, max(0.0, (self.most - length) / (self.most - self.free)))
        if factor == 1:
            return verdict
        reason = f"{verdict.reason}; {length} characters, so times {factor:.2f}"
        return Verdict(verdict.value * factor, reason, {**verdict.parts, "length": factor})


def judge_many(reward: Reward, tasks: Sequence[Task], completions: Sequence[str]) -> list[Verdict]:
    """The verdict on each answer to the task in its place, all at once where the reward can."""
    if isinstance(reward, PythonTests | LearnedReward | Verified | Weighted | LengthPenalty):
        return reward.many(tasks, completions)
    return [reward(task, completion) for task, completion in zip(tasks, completions, strict=True)]


def build_reward(
    weights: Mapping[str, float],
    *,
    where: str = "last",
    partial: bool = False,
    free_length: int | None = None,
    most_length: int | None = None,
    learned: LearnedReward | None = None,
) -> Reward:
    """The weighted mean of the rewards that are named: verified, format, tags, model.

    where                     where the answer stands: last, boxed, tagged, whole
    partial                   whether some of a Python answer's tests count for something
    free_length, most_length  of LengthPenalty, in characters; both or none
    learned                   what "model" means
    UserError for another name, a weight that is not above 0, or lengths that are not in order.
    """
    if where not in FINDERS:
        raise UserError(f"answers are looked for {where!r}, {nearest(where, FINDERS)}")
    if not weights or any(not weight > 0 for weight in weights.values()):
        raise UserError(f"the rewards are {dict(weights)}, expected at least one name with a weight above 0")
    makers: dict[str, Callable[[], Reward]] = {
        "verified": lambda: _verified(where, partial),
        "format": lambda: format_reward,
        "tags": lambda: tag_reward,
    }
    if learned is not None:
        makers["model"] = lambda: learned
    for name in weights:
        if name not in makers:
            raise UserError(f"unknown reward {name!r}, {nearest(name, makers)}")
    reward = Weighted({name: (weight, makers[name]()) for name, weight in weights.items()})
    if free_length is None and most_length is None:
        return reward
    if free_length is None or most_length is None or not 0 <= free_length < most_length:
        raise UserError(
            f"free_length = {free_length} and most_length = {most_length}: give both, the second one greater"
        )
    return LengthPenalty(reward, free_length, most_length)


def _verified(where: str, partial: bool) -> Reward:
    """A text that is looked for among others would be found in any that tells them all, so "last" is for numbers only:
    of a text it means the whole answer."""
    texts = "whole" if where == "last" else where
    return Verified(
        {
            "number": NumberMatch(where),
            "exact": ExactMatch(texts),
            "json": schema_reward,
            "python": PythonTests(partial),
        }
    )
