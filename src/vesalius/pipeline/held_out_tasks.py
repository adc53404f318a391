"""What a policy is worth on tasks that it does not learn from, and what becomes of its answers on the way.

    reward          verified, of the likeliest answer to each task
    sampled_reward  verified, of an answer drawn to each: the gold reward
    proxy           of the drawn answers, by the rewards that the policy is trained with
    kl              of the drawn answers to where the policy began, nats an answer; left out without a reference
    length          tokens of a drawn answer, on average
    diversity       how different the drawn answers are (evals/diversity)

The tasks and the seeds are the same each time. The overoptimisation curve is made of the records in metrics.jsonl, of
which a resumed run keeps those up to its checkpoint: a kill leaves no gap, and no point twice.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vesalius.align.policy.credit import Scores
from vesalius.align.policy.distance import answer_kl
from vesalius.align.policy.episodes import Episode, Sampler
from vesalius.align.policy.groups import lay_out
from vesalius.align.policy.rollouts import Judge
from vesalius.align.writer import seed_of
from vesalius.data.task import Task
from vesalius.evals.diversity import diversity
from vesalius.evals.overoptimisation import Point, noise_of, summary
from vesalius.pipeline.life import Life


@dataclass(frozen=True, kw_only=True)
class HeldOutTasks:
    """Tasks, who answers them, and who judges.

    proxy  None: what is trained with is the verified reward itself
    """

    tasks: Sequence[Task]
    drawn: Sampler
    likeliest: Sampler
    gold: Judge
    proxy: Judge | None
    scores: Scores
    seed: int

    def numbers(self) -> dict[str, float]:
        """All but the diversity."""
        return self._numbers(self._answers(self.drawn))

    def everything(self) -> dict[str, Any]:
        """The numbers, and "diversity" by the names of its measures."""
        episodes = self._answers(self.drawn)
        return {**self._numbers(episodes), "diversity": asdict(diversity([episode.answer for episode in episodes]))}

    def _numbers(self, drawn: Sequence[Episode]) -> dict[str, float]:
        gold = self._mean(self.gold, drawn)
        found = {
            "reward": self._mean(self.gold, self._answers(self.likeliest)),
            "sampled_reward": gold,
            "proxy": gold if self.proxy is None else self._mean(self.proxy, drawn),
            "length": sum(episode.length for episode in drawn) / len(drawn),
        }
        if self.scores.reference is not None:
            found["kl"] = float(answer_kl(self.scores, lay_out(drawn)).mean())
        return found

    def _answers(self, by: Sampler) -> list[Episode]:
        seeds = [seed_of(self.seed, place) for place in range(len(self.tasks))]
        return [episode for (episode,) in by.sample([task.messages for task in self.tasks], 1, seeds)]

    def _mean(self, judge: Judge, episodes: Sequence[Episode]) -> float:
        rewards = judge(self.tasks, [episode.answer for episode in episodes])
        return sum(rewards) / len(rewards)


def draw_curve(life: Life, stage: str) -> None:
    """Writes the overoptimisation curve of a stage into evals.json, if the KL was measured."""
    records = [
        record for record in life.run.read_metrics() if record["kind"] == "validation" and record["stage"] == stage
    ]
    measured = {"step 0": life.results(stage)["before"]} | {f"step {record['step']}": record for record in records}
    points = [
        Point(kl=found["kl"], proxy=found["proxy"], gold=found["sampled_reward"], label=label)
        for label, found in measured.items()
        if "kl" in found
    ]
    if points:
        noise = noise_of(points, life.results(stage)["held_out"])
        life.add(stage, overoptimisation=summary(points, "policy", noise=noise))
