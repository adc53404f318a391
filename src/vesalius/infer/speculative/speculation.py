"""What an engine holds to speculate: who drafts, how much, and what came of it."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from vesalius.infer.sequence import Sequence
from vesalius.infer.speculative.closed_form import speedup
from vesalius.infer.speculative.control import PRIOR_TRIED, Costs, Evidence, choose
from vesalius.infer.speculative.draft import EMPTY, MOST_NODES, Draft
from vesalius.infer.speculative.proposer import PerSequence, Proposer

MOST = 7
"""Tokens drafted at once, where nothing else is said: kernels read eight rows in one go."""

REMEMBERED = 1000
"""Steps of which the median cost is told."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What speculation did; times of the steps that only wrote, and whose plain time is known.

    alpha      how often a drafted token stood, once those before it did
    cost       what a drafted token adds to a step, as a part of a plain one (median)
    gamma      drafted tokens for each sequence of a step that drafted; `depth` of them one behind the other
    predicted  the speed-up of the steps that drafted, by the closed form
    measured   the same by the clock
    overall    that of all steps that wrote, drafts or not
    """

    drafted: int
    kept: int
    alpha: float
    cost: float
    gamma: float
    depth: float
    predicted: float
    measured: float
    overall: float


class Speculation:
    """Drafts by `proposer`, at most `most` tokens at once. The control may be switched off, to measure what it saves.

    The engine calls `begin`, then `draft` for each sequence that writes, then `keep` for each, then `end`.
    """

    def __init__(
        self,
        proposer: Proposer,
        *,
        most: int = MOST,
        controlled: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """ValueError where `most` is no number of tokens that a draft may have."""
        if not 1 <= most <= MOST_NODES:
            raise ValueError(f"most must be from 1 to {MOST_NODES} tokens, got {most}")
        self.proposer, self.most = proposer, most
        self._controlled, self._clock = controlled, clock
        self._all = Evidence()  # of every sequence so far: what is expected of the next one
        self._evidence = PerSequence(lambda: Evidence(kept=PRIOR_TRIED * self._all.alpha))
        self._costs, self._totals = Costs(), _Totals()
        self._started, self._sequences, self._plain = 0.0, 0, True
        self._step = _Step()

    @property
    def needs_hidden(self) -> bool:
        """Whether the sequences' last hidden states have to be set."""
        return self.proposer.needs_hidden

    def begin(self, sequences: int) -> None:
        """A step in which so many sequences write."""
        self._started, self._sequences, self._step = self._clock(), sequences, _Step()
        self._plain = self._costs.wants_plain(sequences)

    def draft(self, sequence: Sequence, limit: int) -> Draft:
        """For one of them, at most `limit` tokens."""
        limit = min(limit, self.most)
        if self._plain:
            return EMPTY
        if self._controlled:
            limit = choose(self._evidence.of(sequence), self._costs, limit)
        return self.proposer.propose(sequence, limit) if limit > 0 else EMPTY

    def keep(self, sequence: Sequence, draft: Draft, kept: int) -> None:
        """Of the draft that was read, the first `kept` tokens of one path stand; one more was written."""
        self._step.written += kept + 1
        if draft:
            for evidence in (self._all, self._evidence.of(sequence)):
                evidence.add(kept, draft.depth, len(draft))
            self._step.drafted += len(draft)
            self._totals.add_draft(draft, kept)

    def end(self, *, only_wrote: bool) -> None:
        """The step is done; one that read prompts too tells nothing about time."""
        seconds = self._clock() - self._started
        if only_wrote and self._sequences:
            if (plain := self._costs.plain_seconds(self._sequences)) is not None:
                self._totals.add_step(self._step, self._sequences, seconds, plain)
            self._costs.add(self._sequences, self._step.drafted, seconds)

    def close(self, sequence: Sequence) -> None:
        """The sequence is over."""
        self._evidence.close(sequence)
        self.proposer.close(sequence)

    def report(self) -> Report:
        """What it did so far."""
        return self._totals.report()


@dataclass
class _Step:
    written: int = 0
    drafted: int = 0


class _Totals:
    """Sums for the report. A time is told in plain steps of the same number of sequences."""

    def __init__(self) -> None:
        self.drafted = self.kept = self.tried = self.depth = self.drafts = 0
        self.plain_time = self.plain_work = self.drafting_time = self.drafting_work = 0.0
        self.gamma, self.steps = 0.0, 0
        self.costs: deque[float] = deque(maxlen=REMEMBERED)

    def add_draft(self, draft: Draft, kept: int) -> None:
        self.drafts += 1
        self.drafted += len(draft)
        self.depth += draft.depth
        self.kept += kept
        self.tried += kept + (kept < draft.depth)

    def add_step(self, step: _Step, sequences: int, seconds: float, plain: float) -> None:
        time, work = seconds / plain, step.written / sequences  # plain steps taken, and those that it stands for
        if not step.drafted:
            self.plain_time, self.plain_work = self.plain_time + time, self.plain_work + work
            return
        self.drafting_time, self.drafting_work = self.drafting_time + time, self.drafting_work + work
        self.gamma, self.steps = self.gamma + step.drafted / sequences, self.steps + 1
        self.costs.append((time - 1) * sequences / step.drafted)

    def report(self) -> Report:
        alpha = self.kept / self.tried if self.tried else 0.0
        cost = median(self.costs) if self.costs else 0.0
        gamma = self.gamma / self.steps if self.steps else 0.0
        depth = gamma * self.depth / self.drafted if self.drafted else 0.0
        time, work = self.plain_time + self.drafting_time, self.plain_work + self.drafting_work
        return Report(
            drafted=self.drafted,
            kept=self.kept,
            alpha=alpha,
            cost=cost,
            gamma=gamma,
            depth=depth,
            predicted=speedup(alpha, gamma, max(0.0, cost), depth) if self.steps else 1.0,
            measured=self.drafting_work / self.drafting_time if self.drafting_time else 1.0,
            overall=work / time if time else 1.0,
        )
