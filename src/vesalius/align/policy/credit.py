"""What each token of sampled answers is worth: rewards, less what it costs to leave the reference, made advantages.

    GroupCredit    answers are compared with one another; each token has its answer's advantage
    CriticCredit   a critic expects something at each token; each token has an advantage of its own (GAE)

The KL to the reference is either a part of the reward, at each token k1 of what was sampled (Ziegler et al. 2019,
arXiv:1909.08593, section 2), or a part of the loss (GRPO); the controller's weight is used in one place only.
All log-probabilities are computed before the first update, without gradient and a few rows at a time.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from vesalius.adapt.switch import disabled, is_adapted
from vesalius.align.logprobs import token_logprobs
from vesalius.align.policy.advantages import COMPARISONS, gae, whiten
from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.episodes import evaluating
from vesalius.align.policy.kl import ESTIMATORS, KLController
from vesalius.align.policy.ppo import ActorCritic
from vesalius.align.policy.reading import Reading, reading_of
from vesalius.align.reference import adapters_change_nothing
from vesalius.data.batch import IGNORE
from vesalius.models.transformer import Transformer

TOKENS = 8192
"""What goes through a model at once where nobody says how many rows: memory for its activations, and work for all
cores."""

Opened = Callable[[], contextlib.AbstractContextManager[Transformer]]
"""Opens a model for a while."""


def as_it_is(model: Transformer) -> Opened:
    """Opens the model as it is now, while it goes on: without its adapters where they have learned nothing yet, else a
    frozen copy."""
    if is_adapted(model) and adapters_change_nothing(model):

        @contextlib.contextmanager
        def base() -> Iterator[Transformer]:
            with disabled(model):
                yield model

        return base
    frozen = copy.deepcopy(model).requires_grad_(False)
    return lambda: contextlib.nullcontext(frozen)


class Credit(Protocol):
    """Makes rewards advantages."""

    @property
    def scores(self) -> "Scores": ...

    def __call__(self, batch: PolicyBatch, rewards: Tensor, *, replayed: bool) -> tuple[PolicyBatch, dict[str, float]]:
        """A batch of episodes, N groups of G one behind the other, and rewards (N, G) -> the batch with all that the
        objective needs, and what there is to tell of it. `replayed`: more than one update will be made."""
        ...


@dataclass(kw_only=True)
class Scores:
    """Log-probabilities of whole rollouts.

    reference  None: nobody asks how far the policy goes
    autocast   what the trainer's products are in, so that a first update has ratios of 1; None: float32
    rows       that go through a model at once; None: as many as have TOKENS tokens
    """

    policy: Transformer
    reference: Opened | None
    kl: KLController
    kl_in: Literal["loss", "reward"] = "loss"
    temperature: float = 1.0
    rows: int | None = None
    autocast: torch.dtype | None = None

    def add(self, batch: PolicyBatch, *, replayed: bool) -> PolicyBatch:
        """The batch with old log-probabilities where they are needed, those of the reference, and the loss's weight of
        the KL."""
        needed = replayed or self.kl_in == "reward" or self.temperature != 1
        old = self.of(self.policy, batch) if needed else None
        if self.reference is None:
            return replace(batch, old=old)
        with self.reference() as reference:
            theirs = self.of(reference, batch)
        return replace(batch, old=old, reference=theirs, kl_weight=self.kl.weight if self.kl_in == "loss" else 0.0)

    def of(self, model: Transformer, batch: PolicyBatch) -> Tensor:
        """log p of the targets (B, T), without gradient."""

        def logprobs(part: Reading) -> Tensor:
            return token_logprobs(model, part.tokens, part.targets, part.positions, temperature=self.temperature)

        return self.each(model, batch, logprobs)

    def each(self, model: nn.Module, batch: PolicyBatch, compute: Callable[[Reading], Tensor]) -> Tensor:
        """compute(part) (R, W) of some rows at a time, at the batch's places (B, T), without gradient."""
        device = next(model.parameters()).device
        whole = torch.zeros(batch.tokens.shape)
        places = torch.arange(len(batch.tokens)).split(self.rows or max(1, TOKENS // batch.tokens.shape[1]))
        with (
            torch.no_grad(),
            evaluating(model),
            torch.autocast(device.type, self.autocast, enabled=self.autocast is not None),
        ):
            for place in places:
                part = reading_of(batch.rows(place).to(device), self.policy.config)
                found = part.back(compute(part).float()).cpu()
                whole[place, : found.shape[1]] = found
        return whole

    def costs(self, batch: PolicyBatch) -> Tensor:
        """What each token takes from the reward (B, T)."""
        if self.kl_in == "loss" or batch.reference is None or batch.old is None:
            return torch.zeros(batch.tokens.shape)
        return self.kl.weight * ESTIMATORS["k1"](batch.old, batch.reference)

    def watch(self, batch: PolicyBatch) -> dict[str, float]:
        """The KL that was reached, nats an answer, and the weight that it had; the controller takes it in."""
        if batch.reference is None:
            return {}
        own = batch.sampled if batch.old is None else batch.old
        kl = float(ESTIMATORS["k3"](own, batch.reference).sum(1).mean())
        told = {"kl": kl, "kl_weight": self.kl.weight}
        self.kl.update(kl, len(batch.tokens))
        return told


@dataclass(kw_only=True)
class GroupCredit:
    """Advantages by comparison: `compare` is a name in `COMPARISONS`."""

    scores: Scores
    compare: str

    def __call__(self, batch: PolicyBatch, rewards: Tensor, *, replayed: bool) -> tuple[PolicyBatch, dict[str, float]]:
        batch = self.scores.add(batch, replayed=replayed)
        rewards = rewards - self.scores.costs(batch).sum(1).view_as(rewards)
        advantages = COMPARISONS[self.compare](rewards).flatten()  # (B,)
        batch = replace(batch, advantages=advantages[:, None] * (batch.targets != IGNORE))
        return batch, self.scores.watch(batch)


@dataclass(kw_only=True)
class CriticCredit:
    """Advantages by GAE from a critic's values, whitened over the whole rollout."""

    scores: Scores
    model: ActorCritic
    discount: float = 1.0
    trace: float = 0.95

    def __call__(self, batch: PolicyBatch, rewards: Tensor, *, replayed: bool) -> tuple[PolicyBatch, dict[str, float]]:
        batch = self.scores.add(batch, replayed=replayed)
        said = batch.targets != IGNORE
        values = self.scores.each(self.model, batch, lambda part: self.model(part.tokens, part.positions)[1])
        each = at_ends(rewards.flatten(), said) - self.scores.costs(batch)  # (B, T)
        advantages, returns = gae(each, values, said, discount=self.discount, trace=self.trace)
        explained = 1 - (returns - values)[said].var(correction=0) / returns[said].var(correction=0).clamp(min=1e-8)
        batch = replace(batch, advantages=whiten(advantages, said), values=values, returns=returns)
        return batch, self.scores.watch(batch) | {"value_explained": float(explained)}


def at_ends(rewards: Tensor, said: Tensor) -> Tensor:
    """rewards (B,) at the last place of each row where said (B, T) is true, (B, T) with 0 elsewhere."""
    each = torch.zeros(said.shape)
    places = torch.arange(said.shape[1]).expand_as(said).where(said, -1).amax(1)  # (B,)
    rows = (places >= 0).nonzero().squeeze(1)
    each[rows, places[rows]] = rewards[rows]
    return each
