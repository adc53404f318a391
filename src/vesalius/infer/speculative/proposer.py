"""What drafts for a sequence. It sees what was given and written, and keeps whatever else it needs itself."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from vesalius.infer.params import SamplingParams
from vesalius.infer.speculative.draft import Draft

State = TypeVar("State")


class Written(Protocol):
    """What a proposer reads of a sequence. `ids` only ever grows.

    hidden     the last hidden state (D,) before the head that gave the newest token; set for who `needs_hidden`
    generator  of the sequence: one stream of random numbers for drafts and what is drawn against them
    """

    @property
    def prompt(self) -> list[int]: ...
    @property
    def ids(self) -> list[int]: ...
    @property
    def params(self) -> SamplingParams: ...
    @property
    def generator(self) -> torch.Generator: ...
    @property
    def hidden(self) -> Tensor | None: ...


class Proposer(Protocol):
    """Guesses what comes next."""

    @property
    def needs_hidden(self) -> bool:
        """Whether it reads `hidden`."""
        ...

    def propose(self, sequence: Written, limit: int) -> Draft:
        """At most `limit` tokens behind what is written; none where it has no guess."""
        ...

    def close(self, sequence: Written) -> None:
        """The sequence is over: what was kept for it goes."""
        ...


class PerSequence(Generic[State]):
    """What a proposer keeps for each sequence until it is closed."""

    def __init__(self, make: Callable[[], State]) -> None:
        self._make = make
        self._states: dict[Written, State] = {}

    def of(self, sequence: Written) -> State:
        """That of the sequence, made when it is first asked for."""
        if sequence not in self._states:
            self._states[sequence] = self._make()
        return self._states[sequence]

    def close(self, sequence: Written) -> None:
        """Forgets it."""
        self._states.pop(sequence, None)

    def __len__(self) -> int:
        return len(self._states)


def written_since(sequence: Written, known: int) -> list[int]:
    """The tokens of prompt and answer behind the first `known`."""
    split = len(sequence.prompt)
    return sequence.ids[known - split :] if known >= split else sequence.prompt[known:] + sequence.ids
