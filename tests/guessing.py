"""Who guesses without a model, for tests of speculation: right as often as is wanted, on any branch."""

import random
from collections.abc import Mapping

from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import Draft
from vesalius.infer.speculative.proposer import Proposer
from vesalius.infer.speculative.speculation import Speculation


class Knowing:
    """Knows the answers, and guesses some of it right, on a random branch of a random tree; or at random only."""

    def __init__(self, answers: Mapping[tuple[int, ...], list[int]], *, branching: bool = True, seed: int = 0) -> None:
        self.answers, self.branching, self.random = answers, branching, random.Random(seed)
        self.needs_hidden = False
        self.open: set[Sequence] = set()

    def propose(self, sequence: Sequence, limit: int) -> Draft:
        self.open.add(sequence)
        right = self.answers.get(tuple(sequence.prompt), [])[len(sequence.ids) :]
        tokens: list[int] = []
        parents: list[int] = []
        at = -1  # the node at which the answer goes on
        while len(tokens) < limit:
            if right and self.random.random() < 0.7:
                tokens.append(right.pop(0))
                parents.append(at)
                at = len(tokens) - 1
            else:
                parents.append(self.random.randrange(-1, len(tokens)) if self.branching else len(tokens) - 1)
                tokens.append(60 - self.random.randrange(5))
                right = right if self.branching else []
            if self.random.random() < 0.1:
                break
        return Draft(tokens, parents)

    def close(self, sequence: Sequence) -> None:
        self.open.discard(sequence)


def free(proposer: Proposer, most: int = 7) -> Speculation:
    """Every draft as long as it may be; a step takes one second."""
    ticks = iter(range(10**9))
    return Speculation(proposer, most=most, controlled=False, clock=lambda: float(next(ticks)))
