"""Who reads how much in the next step: continuous batching (Orca, Yu et al. 2022, section 3.1) with prompts read in
pieces between the tokens of those that write (Sarathi-Serve, Agrawal et al. 2024, arXiv:2403.02310, section 4).

Those that write go first, a token each; what is left of the step's tokens reads prompts, in the order of priority and
arrival. Every running sequence holds the blocks of what it has read. Where none are left, the last in order gives its
own back and waits: it is read again later, or its blocks are put aside (infer/swap). The first in order never gives
way, and the pool holds a whole context, so something always goes on.
"""

import bisect
from dataclasses import dataclass

from vesalius.infer.blocks import GONE, BlockManager, Content
from vesalius.infer.cold_blocks import ColdBlocks
from vesalius.infer.options import EngineOptions
from vesalius.infer.paged_cache import BlockPool, make_room
from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.draft import EMPTY, Draft
from vesalius.infer.stats import EngineStats
from vesalius.infer.swap import SwapSpace


@dataclass(eq=False)
class Slice:
    """`count` tokens of a sequence, the next that the cache does not hold, and a draft of what comes behind them:
    `forced` where nothing else can."""

    sequence: Sequence
    count: int
    draft: Draft = EMPTY
    forced: bool = False

    @property
    def tokens(self) -> list[int]:
        """What is read."""
        return self.sequence.tokens(self.sequence.read, self.sequence.read + self.count) + self.draft.tokens

    @property
    def depths(self) -> list[int]:
        """How many places behind what was read before each of them stands."""
        return [*range(self.count), *(self.count - 1 + depth for depth in self.draft.depths)]

    @property
    def ancestors(self) -> list[int]:
        """Which of them each reads (see Segments)."""
        line = [(1 << i + 1) - 1 for i in range(self.count)]
        before = (1 << self.count - 1) - 1
        return line[:-1] + [row << self.count - 1 | before for row in self.draft.ancestors]

    @property
    def rows(self) -> int:
        """How many are read."""
        return self.count + len(self.draft)

    @property
    def completes(self) -> bool:
        """Whether it is all that is unread, so that the next token can be chosen behind it."""
        return self.count == self.sequence.unread


class Scheduler:
    """Sequences that wait and that run, both in order."""

    def __init__(
        self,
        pool: BlockPool,
        blocks: BlockManager,
        options: EngineOptions,
        stats: EngineStats,
        *,
        finds: bool,
        in_pieces: bool,
        cold: ColdBlocks | None = None,
    ) -> None:
        """`finds`: whether a text may begin with the blocks of another, `cold` those that are in a file; `in_pieces`:
        whether what it has not read may be read in several steps."""
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._planned: list[Slice] = []
        self._pool, self._blocks, self._options, self._stats = pool, blocks, options, stats
        self._finds, self._in_pieces, self._cold = finds, in_pieces, cold
        self._swap = SwapSpace(pool, options.swap_bytes, options.swap_file) if options.preemption == "swap" else None

    def add(self, sequence: Sequence) -> None:
        """One more that waits."""
        sequence.state = "waiting"
        bisect.insort(self.waiting, sequence, key=lambda s: s.order)

    def remove(self, sequence: Sequence) -> None:
        """Takes one out, whose blocks are free at once."""
        (self.running if sequence.state == "running" else self.waiting).remove(sequence)
        if sequence.set_aside is not None and self._swap is not None:
            self._swap.drop(sequence.set_aside)
        sequence.set_aside = None
        self.forget(sequence)

    def forget(self, sequence: Sequence) -> None:
        """Gives back what a sequence has read, so that it is read again."""
        self._blocks.release(sequence.table)
        sequence.table, sequence.contents, sequence.read = [], [], 0

    def plan(self) -> list[Slice]:
        """What the next step reads, with the blocks for it reserved; empty where there is nothing to do."""
        self._planned = []
        left = self._options.step_tokens
        ready = [sequence for sequence in self.running if not _is_paused(sequence)]
        for sequence in sorted(ready, key=lambda s: s.unread > 1):
            left -= self._take(sequence, left)
        for sequence in [sequence for sequence in self.waiting if not _is_paused(sequence)]:
            if left <= 0 or not self._admit(sequence):
                break
            left -= self._take(sequence, left)
        return self._planned

    def reserve_more(self, part: Slice, extra: int) -> int:
        """Blocks for so many tokens behind a slice, as far as there are free ones -> how many tokens fit."""
        sequence, end = part.sequence, part.sequence.read + part.count
        room = (len(sequence.table) + self._blocks.available) * self._blocks.size - end
        self._extend(sequence, end + min(extra, room))
        return min(extra, room)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Lets a new sequence go on from what another has read; both copy a block before they write to it."""
        self._blocks.hold(parent.table)
        child.table, child.contents, child.read = list(parent.table), list(parent.contents), parent.read
        child.cached_tokens = parent.cached_tokens
        self.add(child)
        if len(self.running) < self._options.max_running:
            self._start(child)

    def _take(self, sequence: Sequence, left: int) -> int:
        """Plans what a running sequence reads in this step -> how many tokens that is."""
        if sequence.state != "running" or left <= 0:
            return 0
        count = min(sequence.unread, left) if self._in_pieces else sequence.unread
        if not self._reserve(sequence, count):
            return 0
        self._planned.append(Slice(sequence, count))
        return count

    def _reserve(self, sequence: Sequence, count: int) -> bool:
        """Blocks for `count` more tokens, taken from later sequences where need be; False where it gave way itself."""
        end = sequence.read + count
        while self._needed(sequence, end) > self._blocks.available:
            others = [s for s in (*self.waiting, *self.running) if s.table and s is not sequence]
            later = [s for s in others if s.order > sequence.order or _is_paused(s)]
            victim = max(later, key=lambda s: (_is_paused(s), s.state == "waiting", s.order), default=sequence)
            self._preempt(victim)
            if victim is sequence:
                return False
        self._extend(sequence, end)
        return True

    def _needed(self, sequence: Sequence, end: int) -> int:
        """Blocks to allocate before positions up to `end` can be written."""
        copies = sum(self._blocks.is_shared(block) for block in sequence.table[sequence.read // self._blocks.size :])
        return max(0, self._blocks.blocks_of(end) - len(sequence.table)) + copies

    def _extend(self, sequence: Sequence, end: int) -> None:
        """Makes the blocks from the first unread position to `end` the sequence's own."""
        make_room(self._pool, self._blocks, sequence.table, sequence.read, end)

    def _admit(self, sequence: Sequence) -> bool:
        """Lets a waiting sequence run, if there is room for it and for what it has to read."""
        while len(self.running) >= self._options.max_running:
            if not self._preempt_for(sequence):
                return False
        if sequence.set_aside is None and not sequence.table:
            self._find_beginning(sequence)
        # A block for each that runs is left free, or the new one would be the first to give way.
        while self.running and self._wanted(sequence) + len(self.running) > self._blocks.available:
            if not self._preempt_for(sequence):
                if sequence.set_aside is None:
                    self.forget(sequence)
                return False
        if sequence.set_aside is not None:
            self._bring_back(sequence, sequence.set_aside)
        elif self._cold is not None and not sequence.whole_text_needed:
            self._read_back(sequence, self._cold)
        self._start(sequence)
        return True

    def _wanted(self, sequence: Sequence) -> int:
        """Blocks that a waiting sequence has to be given to hold all that it has to read."""
        return self._blocks.blocks_of(sequence.length) - len(sequence.table)

    def _preempt_for(self, sequence: Sequence) -> bool:
        """Makes one that runs wait: whose caller pauses, or the last of a lower priority. False where there is none."""
        yielding = [s for s in self.running if _is_paused(s) or s.priority > sequence.priority]
        if not yielding:
            return False
        self._preempt(max(yielding, key=lambda s: (_is_paused(s), s.order)))
        return True

    def _start(self, sequence: Sequence) -> None:
        self.waiting.remove(sequence)
        sequence.state = "running"
        bisect.insort(self.running, sequence, key=lambda s: s.order)

    def _preempt(self, victim: Sequence) -> None:
        """Takes the blocks of a sequence; where it ran it waits."""
        whole = victim.read > 0 and GONE not in victim.table
        held = victim.table[: self._blocks.blocks_of(victim.read)]
        victim.set_aside = self._swap.put(held) if self._swap and whole else None
        read = victim.read if victim.set_aside is not None else 0
        self.forget(victim)
        victim.read = read
        if victim.state == "running":
            self._stats.preemptions += 1
            self._planned = [part for part in self._planned if part.sequence is not victim]
            self.running.remove(victim)
            self.add(victim)

    def _bring_back(self, sequence: Sequence, ticket: int) -> None:
        """Into blocks of its own, what was put aside."""
        assert self._swap is not None
        sequence.table = [self._blocks.allocate() for _ in range(self._blocks.blocks_of(sequence.read))]
        self._swap.take(ticket, sequence.table)
        sequence.set_aside = None

    def _find_beginning(self, sequence: Sequence) -> None:
        """Takes the blocks of an earlier text that begins alike; the last token is always read."""
        if not self._finds or sequence.whole_text_needed:
            return
        self._begin_with(sequence, *self._blocks.find(sequence.root, sequence.tokens(0, sequence.length - 1)))

    def _read_back(self, sequence: Sequence, cold: ColdBlocks) -> None:
        """Goes on behind the blocks of its beginning with those that are in the file, and others in memory behind them,
        as far as there is room."""
        size, tokens = self._blocks.size, sequence.tokens(0, sequence.length - 1)
        while True:
            rest = tokens[len(sequence.table) * size :]
            parent = sequence.contents[-1] if sequence.contents else sequence.root
            found = self._blocks.find(parent, rest)
            if not found[0]:
                found = cold.take_back(self._blocks, parent, rest)
                self._stats.cold_tokens += size * len(found[0])
            if not found[0]:
                return
            self._begin_with(sequence, *found)

    def _begin_with(self, sequence: Sequence, blocks: list[int], contents: list[Content]) -> None:
        """Adds full blocks that hold what a sequence begins with, or goes on with behind those that it has."""
        sequence.table += blocks
        sequence.contents += contents
        sequence.read = len(sequence.table) * self._blocks.size
        if not sequence.ids:
            sequence.cached_tokens = sequence.read


def _is_paused(sequence: Sequence) -> bool:
    """Whether its caller has yet to take what it wrote."""
    return sequence.paced and bool(sequence.steps)
