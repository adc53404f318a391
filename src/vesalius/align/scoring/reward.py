"""Reward models: a number that says how good an answer is, learned from comparisons or from scores.

    pairs    L = -log σ(r(x, y_chosen) - r(x, y_rejected) - m) + c · (r_chosen + r_rejected)²
    scores   L = (r(x, y) - s)²

The first is the likelihood of the comparisons under Bradley & Terry 1952 (Christiano et al. 2017, arXiv:1706.03741,
eq. 1); the margin m says by how much the chosen answer was found better (Touvron et al. 2023, arXiv:2307.09288, eq. 2).
Comparisons say nothing of the level of rewards; the centring term c (Eisenstein et al. 2023, arXiv:2312.09244, section
2) holds it at 0.

`score` is what everybody calls who wants rewards: policies, best-of-n, reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.align.scoring.batch import ScoredBatch
from vesalius.align.scoring.model import REWARD, ScoringModel

TOKENS_AT_ONCE = 8192
"""Of one pass of `score`, padding included."""


@dataclass(frozen=True, kw_only=True)
class BradleyTerry:
    """The loss of pairs; `centring` is c.

    Metrics, means over pairs: accuracy (a tie is half right), margin (the difference of rewards), reward (the mean of
    both, which centring holds at 0).
    """

    centring: float = 0.0

    def __call__(self, model: nn.Module, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        chosen, rejected = rewards_of(model, batch).view(-1, 2).unbind(1)  # (P,)
        asked = batch.wanted.view(-1, 2)[:, 0]
        loss = -F.logsigmoid(chosen - rejected - asked).mean()
        if self.centring:
            loss = loss + self.centring * (chosen + rejected).square().mean()
        margin = (chosen - rejected).detach()
        metrics = {"accuracy": wins(margin).mean(), "margin": margin.mean()}
        return loss, metrics | {"reward": ((chosen + rejected) / 2).detach().mean()}


@dataclass(frozen=True)
class Regression:
    """The mean squared error of scores. Metric: reward, the mean."""

    def __call__(self, model: nn.Module, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        rewards = rewards_of(model, batch)
        return F.mse_loss(rewards, batch.wanted), {"reward": rewards.detach().mean()}


def rewards_of(model: nn.Module, batch: ScoredBatch) -> Tensor:
    """(N,) float32: the rewards at the tokens of a batch that have a number, row by row."""
    assert isinstance(model, ScoringModel), "a head is needed"
    return model.at(batch.tokens, batch.positions, batch.scored)[:, 0]


def wins(margins: Tensor) -> Tensor:
    """1 where a margin is positive, 0 where it is negative, and a half for a tie, so that chance is a half.

    >>> wins(torch.tensor([2.0, -1.0, 0.0])).tolist()
    [1.0, 0.0, 0.5]
    """
    return (margins.sign() + 1) / 2


@torch.no_grad()
def score(model: ScoringModel, answered: Sequence[Sequence[int]]) -> Tensor:
    """(N,) float32 on the model's device: the reward of each sequence of ids, a prompt with its answer, at its last
    token. The model is read in the mode that it is in; sequences of like length are read together.

    ValueError for a model of other than one label or an empty sequence; UserError for one longer than the context.
    """
    if model.labels != REWARD:
        raise ValueError(f"rewards need a head of one label, got {model.labels}: give a reward model")
    if not all(answered):
        raise ValueError("a sequence without tokens has no reward: leave it out")
    device = model.score.weight.device
    rewards = torch.zeros(len(answered), device=device)
    for numbers in like_lengths([len(ids) for ids in answered], TOKENS_AT_ONCE):
        width = len(answered[numbers[0]])
        tokens, last = torch.zeros(len(numbers), width, dtype=torch.int64), torch.zeros(len(numbers), width)
        for row, number in enumerate(numbers):
            ids = answered[number]
            tokens[row, : len(ids)] = torch.as_tensor(ids)
            last[row, len(ids) - 1] = 1
        rewards[numbers] = model.at(tokens.to(device), None, last.bool().to(device))[:, 0]  # causal: no mask is needed
    return rewards


def like_lengths(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of sequences, the longest first, in groups that padded to their longest have at most `most` tokens.

    >>> like_lengths([2, 9, 3], most=10)
    [[1], [2, 0]]
    """
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= most:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups
