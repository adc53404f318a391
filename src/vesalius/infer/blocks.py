"""Which block of a pool is whose: reference counts, and the index by which a text finds blocks that hold its beginning.

A full block is known by its content: the block before it and the tokens in it, so that equal keys mean equal texts from
the start (vLLM's automatic prefix caching, Kwon et al. 2023, arXiv:2309.06180, section 4.4, hashes the same chain; here
the dictionary compares the tokens too, so that no text can pass for another). A block that nobody holds stays findable
until its room is needed; the least recently used goes first, and of one text the end before the beginning. It goes
`Below`, if there is such a place, and is forgotten here.
It knows no tensors: `paged_cache` keeps what is in the blocks.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from vesalius.core.errors import VesaliusError

GONE = -1
"""In a table: a block that was given back because nothing reads it any more."""


class OutOfBlocksError(VesaliusError):
    """Every block is in use."""


@dataclass(frozen=True, eq=False)
class Content:
    """What a published block holds: told apart by identity, so that a chain is as quick to compare as one link. Of
    one text there is one, as long as anybody keeps it."""

    parent: Hashable
    tokens: tuple[int, ...]


class Below(Protocol):
    """Where blocks that could still be found go when their room is needed."""

    def put(self, block: int, content: Content) -> None:
        """Keeps a copy of what the block holds, if it can."""

    def clear(self) -> None:
        """Forgets all of them."""


class BlockManager:
    """`count` blocks of `size` positions."""

    def __init__(self, count: int, size: int, below: Below | None = None) -> None:
        self.count, self.size = count, size
        self._below = below
        self._free = list(range(count - 1, -1, -1))  # the last given back is the first taken: its memory is warm
        self._references = [0] * count
        self._content: dict[int, Content] = {}
        self._index: dict[Content, int] = {}
        self._contents: WeakValueDictionary[tuple[Hashable, tuple[int, ...]], Content] = WeakValueDictionary()
        self._idle: OrderedDict[int, None] = OrderedDict()  # published and unused, the longest unused first

    @property
    def available(self) -> int:
        """How many blocks can be allocated."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """How many blocks somebody holds."""
        return self.count - self.available

    @property
    def cached(self) -> int:
        """How many blocks a text could find."""
        return len(self._content)

    def blocks_of(self, positions: int) -> int:
        """How many blocks hold so many positions."""
        return -(-positions // self.size)

    def allocate(self) -> int:
        """A block with one holder and arbitrary content. OutOfBlocksError where all are in use."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            if self._below is not None:
                self._below.put(block, self._content[block])
            self._forget(block)
        else:
            raise OutOfBlocksError(f"all {self.count} blocks of the cache are in use")
        self._references[block] = 1
        return block

    def hold(self, blocks: Sequence[int]) -> None:
        """One more holder for each of them."""
        for block in blocks:
            if block != GONE:
                self._references[block] += 1
                self._idle.pop(block, None)

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less for each block of a table."""
        for block in reversed(blocks):
            if block == GONE:
                continue
            assert self._references[block] > 0, f"block {block} was given back twice"
            self._references[block] -= 1
            if self._references[block]:
                continue
            if block in self._content:
                self._idle[block] = None
            else:
                self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Whether it must be copied before it is written to."""
        return self._references[block] > 1 or block in self._content

    def publish(self, block: int, parent: Hashable, tokens: tuple[int, ...]) -> tuple[int, Content]:
        """Makes a full block findable behind `parent`, the Content before it or what a text begins with.

        -> the block to go on with and its Content: where the same text has a block already that one, held once more,
        and the one given goes back.
        """
        content = self._contents.setdefault((parent, tokens), Content(parent, tokens))
        known = self._index.setdefault(content, block)
        if known != block:
            self.hold([known])
            self.release([block])
        self._content[known] = content
        return known, content

    def content(self, parent: Hashable, tokens: tuple[int, ...]) -> Content | None:
        """The Content of this text behind `parent`, where a block holds it, or a place below."""
        return self._contents.get((parent, tokens))

    def holds(self, content: Content) -> bool:
        """Whether it is in a block, and not only in a place below."""
        return content in self._index

    def find(self, root: Hashable, tokens: Sequence[int]) -> tuple[list[int], list[Content]]:
        """The blocks that hold the longest known beginning of a text, each held once more, and their Contents."""
        blocks: list[int] = []
        contents: list[Content] = []
        parent = root
        for start in range(0, len(tokens) - self.size + 1, self.size):
            content = self.content(parent, tuple(tokens[start : start + self.size]))
            if content is None or content not in self._index:
                break
            blocks.append(self._index[content])
            contents.append(content)
            parent = content
        self.hold(blocks)
        return blocks, contents

    def clear(self) -> None:
        """Forgets all that nobody holds, here and below, so that no later text finds it."""
        if self._below is not None:
            self._below.clear()
        while self._idle:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
            self._free.append(block)

    def _forget(self, block: int) -> None:
        del self._index[self._content.pop(block)]
