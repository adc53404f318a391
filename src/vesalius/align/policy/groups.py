"""Groups of answers to one task: as rows of a batch, and what there is to tell of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.episodes import Episode
from vesalius.data.batch import IGNORE
from vesalius.data.task import Task


@dataclass
class Group:
    """The answers to one task."""

    task: Task
    episodes: list[Episode]
    rewards: list[float]

    @property
    def is_equal(self) -> bool:
        """Whether all answers are worth the same."""
        return max(self.rewards) == min(self.rewards)


def lay_out(episodes: Sequence[Episode], *, masks_truncated: bool = False) -> PolicyBatch:
    """Episodes as rows, without advantages yet: a target wherever the policy spoke next."""
    width = max(len(episode.ids) for episode in episodes) - 1
    tokens, targets = torch.zeros(len(episodes), width, dtype=torch.int64), torch.full((len(episodes), width), IGNORE)
    sampled = torch.zeros(len(episodes), width)
    for row, episode in enumerate(episodes):
        ids, said, end = torch.tensor(episode.ids), torch.tensor(episode.said), len(episode.ids) - 1
        tokens[row, :end] = ids[:-1]
        if not (masks_truncated and episode.truncated):
            targets[row, :end] = ids[1:].where(said[1:], IGNORE)
            sampled[row, :end] = torch.tensor(episode.logprobs[1:])
    return PolicyBatch(tokens=tokens, targets=targets, sampled=sampled, advantages=torch.zeros_like(sampled))


def overlong_cost(length: int, most: int, grace: int) -> float:
    """0 up to `most - grace` tokens, then in a line to 1 at `most`.

    >>> overlong_cost(80, 100, 20), overlong_cost(90, 100, 20), overlong_cost(100, 100, 20)
    (0.0, 0.5, 1.0)
    """
    return min(1.0, max(0.0, (length - (most - grace)) / grace))


def summary(groups: Sequence[Group]) -> dict[str, float]:
    """Means over all answers: reward, length, turns, and the shares of answers that were cut off and of groups whose
    answers are all worth the same."""
    episodes = [episode for group in groups for episode in group.episodes]
    rewards = [reward for group in groups for reward in group.rewards]
    columns: dict[str, list[float]] = {
        "reward": rewards,
        "length": [episode.length for episode in episodes],
        "turns": [episode.turns for episode in episodes],
        "truncated": [episode.truncated for episode in episodes],
        "equal_groups": [group.is_equal for group in groups],
    }
    return {name: sum(values) / len(values) for name, values in columns.items()}
