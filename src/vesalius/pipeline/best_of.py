"""What becomes of the gold reward where a reward model chooses: best-of-n, the overoptimisation that needs no training.

Answers to held-out tasks are drawn by the model as it is before it learns to score, and judged by what it has become.
Both follow from the seed and the weights that the run starts from, so a resumed run draws the same ones again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vesalius.align.policy.episodes import Dialogue, Sampler
from vesalius.align.rewards.compose import build_reward, judge_many
from vesalius.align.rewards.learned import open_reward
from vesalius.align.rewards.verdict import Reward
from vesalius.align.writer import seed_of
from vesalius.core.errors import UserError
from vesalius.data.split import split_items
from vesalius.data.task import Task
from vesalius.data.tasks import read_tasks
from vesalius.evals.overoptimisation import best_of_n, noise_of, summary
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.scoring import RewardSection


@dataclass(frozen=True)
class Drawn:
    """Tasks, and the answers to each, as many to all of them."""

    tasks: Sequence[Task]
    answers: Sequence[Sequence[str]]

    def judged(self, reward: Reward) -> list[list[float]]:
        """(P, N) what each answer is worth."""
        tasks = [task for task, row in zip(self.tasks, self.answers, strict=True) for _ in row]
        verdicts = iter(judge_many(reward, tasks, [answer for row in self.answers for answer in row]))
        return [[float(next(verdicts)) for _ in row] for row in self.answers]


def draw(life: Life, section: RewardSection) -> Drawn | None:
    """Answers of the model as it is now; None where the recipe has no tasks. UserError where none of these that are
    held out leaves room to answer."""
    data = life.recipe.data
    if not data.tasks:
        return None
    held_out = split_items(read_tasks(data.tasks), data.validation_fraction, "tasks")[1]
    sampler = Sampler(*life.made, Dialogue(max_tokens=section.answer_tokens, context=section.context))
    tasks = list(islice((task for task in held_out if sampler.fits(task.messages)), section.answered_tasks))
    if not tasks:
        raise UserError(f"none of {len(held_out)} held-out tasks can be answered: raise data.validation_fraction")
    with life.timed("eval"), life.display.stage("drawing answers to choose from"):
        seeds = [seed_of(section.seed, place) for place in range(len(tasks))]
        groups = sampler.sample([task.messages for task in tasks], section.best_of, seeds)
    return Drawn(tasks, [[episode.answer for episode in group] for group in groups])


def choose(life: Life, drawn: Drawn) -> dict[str, Any]:
    """The curve of the reward model that the run has saved, for n = 1, 2, 4 … up to as many as were drawn."""
    most = len(drawn.answers[0])
    counts = [2**power for power in range(most.bit_length())]
    with life.timed("eval"), life.display.stage("choosing the best of them"):
        proxy = drawn.judged(open_reward(life.run.model, life.device))
        gold = drawn.judged(build_reward({"verified": 1.0}))
    points = best_of_n(proxy, gold, counts)
    return summary(points, "best_of_n", noise=noise_of(points, len(drawn.tasks)))
