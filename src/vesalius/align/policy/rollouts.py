"""Batches that the policy writes itself: tasks in an order, answers to them, rewards, and the updates made on these.

    tasks → groups of answers (episodes.py) → rewards → advantages (credit.py) → `epochs` times `minibatches` updates

Everything follows from the weights, the seed and how many tasks were taken: the order of an epoch of tasks, the seed of
every answer, the rows of every minibatch. So a killed run goes on to the same losses. Between two rollouts a few
numbers are the whole state. Within one, the weights are no longer those that wrote the answers, so the state holds
these too.

Dynamic sampling (DAPO, Yu et al. 2025, arXiv:2503.14476, section 3.2): a group whose answers are all worth the same
teaches nothing and is replaced by another task's, `resamples` times at most. An answer that was cut off is kept, taken
out of the loss, or punished for the last `overlong_tokens` of its length (there section 3.4).
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch

from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.credit import Credit
from vesalius.align.policy.episodes import Episode, Sampler
from vesalius.align.policy.groups import Group, lay_out, overlong_cost, summary
from vesalius.align.writer import seed_of
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE
from vesalius.data.task import Task
from vesalius.train.training import Callback, Training

Overlong = Literal["keep", "mask", "punish"]


Judge = Callable[[Sequence[Task], Sequence[str]], Sequence[float]]
"""Tasks, and an answer to each -> what each answer is worth. All answers of a rollout come at once."""


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """How much is sampled, and how often it is used.

    prompts, group       tasks a rollout, and answers to each
    epochs, minibatches  how often all answers are used, and in how many updates each time
    resamples            rounds in which groups of equal rewards are replaced
    overlong             what becomes of an answer that was cut off
    overlong_tokens      of "punish": how long before the most tokens the punishment begins to grow from 0 to 1
    """

    prompts: int = 16
    group: int = 8
    epochs: int = 1
    minibatches: int = 1
    seed: int = 0
    resamples: int = 0
    overlong: Overlong = "keep"
    overlong_tokens: int = 16

    @property
    def updates(self) -> int:
        """Of one rollout."""
        return self.epochs * self.minibatches


class Rollouts:
    """An endless iterator of `PolicyBatch`es. `stats` tells of the rollout that the last one comes from; `dropped`
    names the tasks whose prompts leave no room for an answer. UserError where no task is left.
    """

    def __init__(
        self, tasks: Sequence[Task], sampler: Sampler, judge: Judge, credit: Credit, plan: RolloutPlan
    ) -> None:
        self.sampler, self.judge, self.credit, self.plan = sampler, judge, credit, plan
        self._tasks = [task for task in tasks if sampler.fits(task.messages)]
        kept = {task.name for task in self._tasks}
        self.dropped = [task.name for task in tasks if task.name not in kept]
        if not self._tasks:
            raise UserError(
                f"none of {len(tasks)} tasks leaves room to answer in a context of {sampler.dialogue.context} tokens: "
                "raise the context, or give tasks"
            )
        self._fingerprint = _fingerprint(self._tasks, plan)
        self.stats: dict[str, float] = {}
        self._taken = self._update = 0
        self._batch: PolicyBatch | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PolicyBatch:
        if self._batch is None:
            self._batch = self._roll_out()
        part = self._minibatch(self._batch)
        self._update += 1
        if self._update == self.plan.updates:
            self._update, self._batch = 0, None
        return part

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, with the answers where they are still in use."""
        return {
            "taken": self._taken,
            "update": self._update,
            "kl_weight": self.credit.scores.kl.weight,
            "stats": self.stats,
            "batch": None if self._batch is None else self._batch.to_json(),
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the state was taken. UserError where it belongs to other tasks or settings."""
        if state["fingerprint"] != self._fingerprint:
            raise UserError(
                f"the checkpoint's rollouts are for tasks and settings {state['fingerprint']}, got "
                f"{self._fingerprint}: resume with the same, or start a new run"
            )
        self._taken, self._update, self.stats = state["taken"], state["update"], state["stats"]
        self.credit.scores.kl.weight = state["kl_weight"]
        self._batch = None if state["batch"] is None else PolicyBatch.from_json(state["batch"])

    def _roll_out(self) -> PolicyBatch:
        started = time.perf_counter()
        groups, told = self._groups()
        plan, most = self.plan, self.sampler.dialogue.max_tokens
        rewards = torch.tensor([group.rewards for group in groups])  # (N, G)
        episodes = [episode for group in groups for episode in group.episodes]
        if plan.overlong == "punish":
            costs = [overlong_cost(episode.length, most, plan.overlong_tokens) for episode in episodes]
            rewards = rewards - torch.tensor(costs).view_as(rewards)
        batch = lay_out(episodes, masks_truncated=plan.overlong == "mask")
        batch, of_credit = self.credit(batch, rewards, replayed=plan.updates > 1)
        names = " | ".join(group.task.name for group in groups[:3])
        self.stats = told | of_credit | {"rollout_seconds": time.perf_counter() - started}
        return replace(batch, source=f"answers to {names}" + (" and others" if len(groups) > 3 else ""))

    def _groups(self) -> tuple[list[Group], dict[str, float]]:
        """As many groups as are wanted, those of unequal rewards first, and what there is to tell of all sampled."""
        unequal: list[Group] = []
        equal: list[Group] = []
        hits: list[float] = []
        for _ in range(1 + self.plan.resamples):
            for group in self._sampled(self.plan.prompts - len(unequal)):
                (equal if group.is_equal else unequal).append(group)
            hits.append(self.sampler.hit_rate)
            if len(unequal) == self.plan.prompts:
                break
        told = summary(unequal + equal) | {"hit_rate": sum(hits) / len(hits)}
        return (unequal + equal)[: self.plan.prompts], told

    def _sampled(self, count: int) -> list[Group]:
        places = range(self._taken, self._taken + count)
        self._taken += count
        tasks = [self._task(place) for place in places]
        prompts, seeds = [task.messages for task in tasks], [seed_of(self.plan.seed, place) for place in places]
        sampled = self.sampler.sample(prompts, self.plan.group, seeds)
        rewards = iter(
            self._judged([(task, episode) for task, row in zip(tasks, sampled, strict=True) for episode in row])
        )
        return [Group(task, row, [next(rewards) for _ in row]) for task, row in zip(tasks, sampled, strict=True)]

    def _judged(self, pairs: list[tuple[Task, Episode]]) -> list[float]:
        tasks, answers = [task for task, _ in pairs], [episode.answer for _, episode in pairs]
        rewards = [float(value) for value in self.judge(tasks, answers)]
        if len(rewards) != len(pairs) or not np.isfinite(rewards).all():
            raise ValueError(f"the judge gave {len(rewards)} rewards for {len(pairs)} answers, or some are not finite")
        return rewards

    def _task(self, place: int) -> Task:
        epoch, number = divmod(place, len(self._tasks))
        return self._tasks[np.random.default_rng((self.plan.seed, epoch)).permutation(len(self._tasks))[number]]

    def _minibatch(self, batch: PolicyBatch) -> PolicyBatch:
        """The rows of the present update. A lone one keeps the order, in which groups stand together."""
        plan = self.plan
        if plan.minibatches == 1:
            part = batch.rows(slice(None))
        else:
            epoch, number = divmod(self._update, plan.minibatches)
            order = np.random.default_rng((plan.seed, self._taken, epoch)).permutation(len(batch.tokens))
            part = batch.rows(torch.from_numpy(np.array_split(order, plan.minibatches)[number]))
        return replace(part, mean_length=int((part.targets != IGNORE).sum()) / len(part.tokens))


class RolloutStats(Callback):
    """Adds to each step's record what there is to tell of its rollout."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts = rollouts

    def measure(self, run: Training, record: Mapping[str, Any]) -> dict[str, float]:
        return self.rollouts.stats


def _fingerprint(tasks: Sequence[Task], plan: RolloutPlan) -> str:
    digest = hashlib.blake2b(repr(plan).encode(), digest_size=8)
    for task in tasks:
        digest.update(repr((task.name, task.messages)).encode())
    return digest.hexdigest()
