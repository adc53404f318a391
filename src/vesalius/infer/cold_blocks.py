"""Blocks of the prefix cache that had to make room for others: in a file, read back when a text begins with them.

Computing the keys and values of a token costs two operations for each weight of the model, reading them back a few
kilobytes: a disk is faster where the model is large or the processor small (bench/engine.py compares the two). A block
is known by its Content, as it was in memory, so no text can pass for another here either. What was read back stays in
the file as well: a block that goes cold again costs nothing. The longest unused gives its place to the next.

Left out: writing to the disk beside the model's work; blocks that outlive the process, for which weights would need a
name that changes with them.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path

from vesalius.core.errors import UserError
from vesalius.core.files import cache_dir
from vesalius.infer.blocks import BlockManager, Content
from vesalius.infer.options import EngineOptions
from vesalius.infer.paged_cache import BlockPool
from vesalius.infer.swap import SwapSpace


class ColdBlocks:
    """Room for `nbytes` of blocks of one pool in `file`, or in a directory; see blocks.Below."""

    def __init__(self, pool: BlockPool, nbytes: int, file: Path | str) -> None:
        """UserError for less room than one block; VesaliusError where the disk has not that much."""
        if nbytes < pool.block_bytes:
            raise UserError(f"cold_bytes = {nbytes}, but a block takes {pool.block_bytes}: give more, or 0 for none")
        self._space = SwapSpace(pool, nbytes, file)
        self._tickets: OrderedDict[Content, int] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        return len(self._tickets)

    def put(self, block: int, content: Content) -> None:
        """Copies the block, unless it is here already."""
        if content not in self._tickets:
            if not self._space.free:
                self._space.drop(self._tickets.popitem(last=False)[1])
            ticket = self._space.put([block])
            assert ticket is not None
            self._tickets[content] = ticket
        self._tickets.move_to_end(content)

    def take_back(
        self, blocks: BlockManager, parent: Hashable, tokens: Sequence[int]
    ) -> tuple[list[int], list[Content]]:
        """The longest beginning of this text behind `parent` that is here and not in memory, read into `blocks`, as far
        as some are free, and given as their `find` gives it."""
        wanted = list(islice(self._known(blocks, parent, tokens), blocks.available))
        for content in reversed(wanted):  # the end of a text goes before its beginning
            self._tickets.move_to_end(content)
        room = [blocks.allocate() for _ in wanted]  # which may put others here, in the place even of these
        here = list(takewhile(self._tickets.__contains__, wanted))
        blocks.release(room[len(here) :])
        room = room[: len(here)]
        if here:
            self._space.read([self._tickets[content] for content in here], room)
        made = [blocks.publish(block, c.parent, c.tokens) for block, c in zip(room, here, strict=True)]
        return [block for block, _ in made], [content for _, content in made]

    def _known(self, blocks: BlockManager, parent: Hashable, tokens: Sequence[int]) -> Iterator[Content]:
        """What the text begins with, up to the first block that is not here, or in memory."""
        for start in range(0, len(tokens) - blocks.size + 1, blocks.size):
            content = blocks.content(parent, tuple(tokens[start : start + blocks.size]))
            if content is None or content not in self._tickets or blocks.holds(content):
                return
            yield content
            parent = content

    def clear(self) -> None:
        """Forgets all of them: what they hold is of other weights."""
        while self._tickets:
            self._space.drop(self._tickets.popitem()[1])


def cold_blocks_of(options: EngineOptions, pool: BlockPool) -> ColdBlocks | None:
    """What an engine's options ask for. Errors as in ColdBlocks."""
    if not options.cold_bytes:
        return None
    return ColdBlocks(pool, options.cold_bytes, cache_dir() if options.cold_file is None else options.cold_file)
