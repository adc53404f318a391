"""One request on its way through the engine: what was asked, what the model has read of it, what it has written."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from vesalius.core.errors import VesaliusError
from vesalius.infer.blocks import Content
from vesalius.infer.params import SamplingParams
from vesalius.infer.sampling import Adjuster
from vesalius.infer.step import FinishReason, Step

State = Literal["behind", "waiting", "running", "finished", "cancelled"]
"""behind: another one reads the prompt for it."""


class Constraint(Protocol):
    """The state of an answer that has to follow a grammar."""

    def prepare(self) -> None:
        """Begins to find out which tokens may come next, while the model computes."""

    def apply(self, scores: Tensor) -> Tensor:
        """scores (V,) -> (V,), -inf where a token may not come next."""
        ...

    def accept(self, token: int) -> None:
        """The token that was taken."""

    def fork(self) -> "Constraint":
        """A copy that goes its own way."""
        ...

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token can follow."""
        ...


@dataclass(kw_only=True, eq=False)
class Sequence:
    """One request: the handle that the engine gives, and the place where its answer arrives.

    prompt, ids       what was given, and what was written so far
    unseen            how many tokens of the prompt, at its start, no text holds (adapt/virtual_tokens)
    limit             the most tokens that it may write; 0: the prompt is only read
    steps             what was written and not yet taken by the caller
    paced             whether it waits until its steps are taken, or writes on as fast as it can
    priority, number  the lower goes first; among equals the earlier
    read              how many tokens the cache holds, in the blocks of `table`
    cached_tokens     how many of the prompt's tokens were found there and not read
    contents          of its full blocks, as far as they are published
    adapter           which of the model's adapters it has; None: those in use for every text, mostly none
    root              what a text must share with this one beside its tokens, to share its blocks
    set_aside         what the blocks held, where they were taken from it (infer/swap)
    history           all ids (T,) with room for those to come, for the processors that read them; None where none does
    logprobs          of each prompt token after the first, where `scored` asks for them
    embedding         the mean of the last hidden states (D,), where `pooled` asks for it
    hidden            the last hidden state (D,) of what is read, where somebody who drafts needs it
    """

    prompt: list[int]
    params: SamplingParams
    limit: int
    generator: torch.Generator
    adjust: Adjuster
    unseen: int = 0
    constraint: Constraint | None = None
    paced: bool = False
    priority: int = 0
    number: int = 0
    adapter: str | None = None
    root: Hashable = None
    scored: bool = False
    pooled: bool = False
    history: Tensor | None = None
    ids: list[int] = field(default_factory=list)
    steps: deque[Step] = field(default_factory=deque)
    state: State = "waiting"
    finish_reason: FinishReason | None = None
    error: VesaliusError | None = None
    read: int = 0
    cached_tokens: int = 0
    table: list[int] = field(default_factory=list)
    contents: list[Content] = field(default_factory=list)
    set_aside: int | None = None
    logprobs: list[float] = field(default_factory=list)
    embedding: Tensor | None = None
    hidden: Tensor | None = None
    siblings: list["Sequence"] = field(default_factory=list)

    @property
    def visible(self) -> list[int]:
        """The prompt as processors read it: what no text holds counts as the text's first token."""
        return [self.prompt[self.unseen]] * self.unseen + self.prompt[self.unseen :]

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.ids)

    @property
    def unread(self) -> int:
        """How many tokens the cache does not hold yet; 0 only where nothing is left to be done."""
        return self.length - self.read

    @property
    def order(self) -> tuple[int, int]:
        """Who goes first."""
        return self.priority, self.number

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("finished", "cancelled")

    @property
    def whole_text_needed(self) -> bool:
        """Whether every token has to be read, so that nothing may be taken from an earlier text."""
        return self.scored or self.pooled

    def tokens(self, start: int, stop: int) -> list[int]:
        """Prompt and answer between two places."""
        split = len(self.prompt)
        if start >= split:
            return self.ids[start - split : stop - split]
        return self.prompt[start:stop] + self.ids[: max(0, stop - split)]

    def add(self, step: Step) -> None:
        """One more token."""
        if self.history is not None:
            self.history[self.length] = step.id
        self.ids.append(step.id)
        self.steps.append(step)
