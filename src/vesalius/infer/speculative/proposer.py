"""What drafts for a sequence. It sees what was given and written, and keeps whatever else it needs itself.

It draws, where it does, by the sequence's own generator: one stream of random numbers for drafts and for what is drawn
against them.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import Draft

State = TypeVar("State")


class Proposer(Protocol):
    """Guesses what comes next."""

    @property
    def needs_hidden(self) -> bool:
        """Whether it reads the sequence's `hidden`, which is kept only then."""
        ...

    def propose(self, sequence: Sequence, limit: int) -> Draft:
        """At most `limit` tokens behind what is written; none where it has no guess."""
        ...

    def close(self, sequence: Sequence) -> None:
        """The sequence is over: what was kept for it goes."""
        ...


class PerSequence(Generic[State]):
    """What a proposer keeps for each sequence until it is closed."""

    def __init__(self, make: Callable[[], State]) -> None:
        self._make = make
        self._states: dict[Sequence, State] = {}

    def of(self, sequence: Sequence) -> State:
        """That of the sequence, made when it is first asked for."""
        if sequence not in self._states:
            self._states[sequence] = self._make()
        return self._states[sequence]

    def close(self, sequence: Sequence) -> None:
        """Forgets it."""
        self._states.pop(sequence, None)

    def __len__(self) -> int:
        return len(self._states)
