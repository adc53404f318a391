"""A draft: tokens that may come next, as a tree under the last certain token.

A chain is the tree whose every node has one child. Siblings are different guesses for one place, so one reading can
try several answers: SpecInfer (Miao et al. 2023), arXiv:2305.09781, section 4. The rows that a model reads for a draft
are the last certain token (row 0) and the nodes behind it (row 1 + i); each reads the rows of its own ancestors only.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

MOST_NODES = 62
"""A set of rows is an integer of 63 bits (kernels/paged_attention), and the certain token is one of them."""


@dataclass(frozen=True, eq=False)
class Draft:
    """Tokens in an order in which parents stand before their children.

    parents        index of each token's parent, -1 for the last certain token
    probabilities  (n, V): the distribution that each token was drawn from, given the siblings before it; None where
                   nothing was drawn
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.parents) != len(self.tokens) or len(self.tokens) > MOST_NODES:
            raise ValueError(
                f"a draft of {len(self.tokens)} tokens and {len(self.parents)} parents: expected as many of both and "
                f"at most {MOST_NODES}"
            )
        if any(not -1 <= parent < i for i, parent in enumerate(self.parents)):
            raise ValueError(f"parents must be -1 or the index of an earlier token, got {self.parents}")
        if self.probabilities is not None and len(self.probabilities) != len(self.tokens):
            raise ValueError(f"{len(self.probabilities)} rows of probabilities for {len(self.tokens)} tokens")

    @classmethod
    def chain(cls, tokens: Iterable[int], probabilities: Tensor | None = None) -> "Draft":
        """One token behind the other.

        >>> Draft.chain([7, 8, 9]).parents
        [-1, 0, 1]
        """
        tokens = list(tokens)
        return cls(tokens, list(range(-1, len(tokens) - 1)), probabilities)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def depths(self) -> list[int]:
        """How many places behind the last certain token each node stands: its row's position is past + depth.

        >>> Draft([7, 8, 9], [-1, -1, 1]).depths
        [1, 1, 2]
        """
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths

    @property
    def depth(self) -> int:
        """Tokens on the longest path: so many can be accepted at most."""
        return max(self.depths, default=0)

    @cached_property
    def children(self) -> list[list[int]]:
        """The nodes under each row, in their order: entry 0 for the last certain token, 1 + i for node i."""
        children: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents):
            children[parent + 1].append(node)
        return children

    def head(self, count: int) -> "Draft":
        """The first nodes of it."""
        if count >= len(self):
            return self
        probabilities = None if self.probabilities is None else self.probabilities[:count]
        return Draft(self.tokens[:count], self.parents[:count], probabilities)

    @property
    def spine(self) -> "Draft":
        """The chain of first children: what a tree is where only a line can be read."""
        nodes = self.children[0][:1]
        while nodes and (below := self.children[1 + nodes[-1]]):
            nodes.append(below[0])
        probabilities = None if self.probabilities is None else self.probabilities[nodes]
        return Draft.chain([self.tokens[node] for node in nodes], probabilities)

    @property
    def is_chain(self) -> bool:
        """Whether every row reads all rows before it, so that attention needs no sets."""
        return self.parents == list(range(-1, len(self) - 1))

    @cached_property
    def ancestors(self) -> list[int]:
        """For each row the set of rows that it reads, itself included, bit j for row j (Segments.ancestors).

        >>> [bin(row) for row in Draft([7, 8, 9], [-1, -1, 1]).ancestors]
        ['0b1', '0b11', '0b101', '0b1101']
        """
        sets = [1]
        for node, parent in enumerate(self.parents):
            sets.append(sets[parent + 1] | 1 << node + 1)
        return sets


EMPTY = Draft()
"""No guess: the step is that of plain decoding."""
