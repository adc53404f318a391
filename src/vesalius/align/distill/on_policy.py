"""Distillation on what the student writes itself: Agarwal et al. 2023 (GKD), arXiv:2306.13649, algorithm 1.

    with probability λ   the student answers prompts, and learns what the teacher thinks of its answers
    else                 a batch of the data's own answers

A student that is trained on others' texts alone never sees its own mistakes, and has nothing to go by after the first
one. Its answers are sampled by the one engine on the weights as they are (episodes.py), and no gradient goes through
the sampling. What a batch is follows from the weights, the seed and how many batches and prompts were taken, so a run
that was killed, while it sampled too, goes on to the same losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from vesalius.align.policy.episodes import Episode, Messages, Sampler, seed_of
from vesalius.align.rows.encoding import Encoded
from vesalius.align.rows.packing import check_fingerprint, pack
from vesalius.align.rows.spans import SpansWriter
from vesalius.align.sft.sft import PackedConversations, batch_of
from vesalius.core.errors import UserError
from vesalius.data.batch import Batch
from vesalius.data.conversation import Conversation


@dataclass(frozen=True, kw_only=True)
class OnPolicyPlan:
    """share    λ: of batches that the student writes
    prompts  it answers for such a batch
    """

    share: float = 0.5
    prompts: int = 32
    seed: int = 0


class OnPolicyConversations:
    """An endless iterator of batches, of which a share is answered by the model of `sampler`, to the prompts of
    `conversations`; the others are those of `data`. `dropped` names the prompts that leave no room to answer.

    UserError where no prompt is left.
    """

    def __init__(
        self,
        data: PackedConversations,
        conversations: Sequence[Conversation],
        sampler: Sampler,
        plan: OnPolicyPlan,
    ) -> None:
        self.data, self.sampler, self.plan = data, sampler, plan
        self.dropped: list[str] = []
        self._prompts = [prompt for one in conversations if (prompt := self._prompt_of(one)) is not None]
        if not self._prompts:
            raise UserError(
                f"none of {len(conversations)} conversations leaves room to answer in a context of "
                f"{sampler.dialogue.context} tokens: raise the context, or give shorter prompts"
            )
        self._fingerprint = f"{data.state_dict()['fingerprint']} {plan} {len(self._prompts)}"
        self._step = self._taken = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        own = np.random.default_rng((self.plan.seed, self._step)).random() < self.plan.share
        self._step += 1
        return self._answered() if own else next(self.data)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch begins, as JSON can hold it; what it is depends on the weights besides."""
        return {
            "step": self._step,
            "taken": self._taken,
            "data": self.data.state_dict(),
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where the state was taken. UserError where it belongs to other data or settings."""
        check_fingerprint(state, self._fingerprint)
        self._step, self._taken = state["step"], state["taken"]
        self.data.load_state_dict(state["data"])

    def _answered(self) -> Batch:
        """The student's answers to the next prompts, in rows."""
        places = range(self._taken, self._taken + self.plan.prompts)
        self._taken = places.stop
        seeds = [seed_of(self.plan.seed, place) for place in places]
        groups = self.sampler.sample([self._prompt(place) for place in places], 1, seeds)
        encoded, context = _encoded([group[0] for group in groups], self.data.encoded), self.data.context
        rows = pack(range(len(encoded)), encoded.spans.lengths.tolist(), context)
        return batch_of(encoded, rows, context, source=f"written at step {self._step}: ")

    def _prompt(self, place: int) -> Messages:
        epoch, number = divmod(place, len(self._prompts))
        order = np.random.default_rng((self.plan.seed, epoch)).permutation(len(self._prompts))
        return self._prompts[order[number]]

    def _prompt_of(self, conversation: Conversation) -> Messages | None:
        """All before the assistant's last turn; None where that leaves no room, or is nothing."""
        last = max(place for place, one in enumerate(conversation.messages) if one["role"] == "assistant")
        prompt = conversation.messages[:last]
        if prompt and len(self.sampler.prompt_ids(prompt)) < self.sampler.dialogue.context:
            return prompt
        self.dropped.append(conversation.name)
        return None


def _encoded(episodes: Sequence[Episode], like: Encoded) -> Encoded:
    """Episodes as conversations, of which what the student said is marked."""
    writer = SpansWriter(2**32)
    for episode in episodes:
        writer.add(episode.ids, episode.said)
    names = [str(episode.messages[-1]["content"])[:40] for episode in episodes]
    return Encoded(spans=writer.done(), names=names, origins=[""] * len(names), dropped={}, padding=like.padding)
