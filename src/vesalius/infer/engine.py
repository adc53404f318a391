"""The one way to generate (contract 4): many sequences on one model, each of its steps one pass over all of them.

    plan      the scheduler says who reads how many tokens, and gives them blocks          scheduler.py, blocks.py
    read      the model reads all of them as one row                                       reader.py, paged_cache.py
    choose    whoever has read all that there is gets one more token                       choosing.py, sampling.py

An engine that speculates reads guesses too, and whoever guessed right gets several tokens (drafting.py).
`add` takes a request and gives its sequence, `step` does the three, and whoever holds the sequence takes what it has
written from `sequence.steps`. `stream` is that for one caller; any number of streams may take turns.
The engine belongs to one thread. Left out: tensor parallelism, several models in one pool.
"""

from dataclasses import replace

import torch
from torch import Tensor

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.adapters import Adapters
from vesalius.infer.beam_search import Beam
from vesalius.infer.beams import search_beams
from vesalius.infer.blocks import BlockManager
from vesalius.infer.capacity import pool_of
from vesalius.infer.choosing import Choice, choose
from vesalius.infer.cold_blocks import cold_blocks_of
from vesalius.infer.drafting import Drafting
from vesalius.infer.intake import Intake, placement
from vesalius.infer.options import EngineOptions
from vesalius.infer.params import SamplingParams
from vesalius.infer.reader import Reader
from vesalius.infer.scheduler import Scheduler, Slice
from vesalius.infer.sequence import Constraint, Sequence, State
from vesalius.infer.settling import Settler
from vesalius.infer.speculative.names import speculation_of
from vesalius.infer.speculative.speculation import Speculation
from vesalius.infer.stats import EngineStats
from vesalius.infer.step import FinishReason, Step
from vesalius.models.positions import reread_at, turns_whole_texts
from vesalius.models.transformer import Transformer

__all__ = ["Engine", "EngineOptions", "FinishReason", "Sequence", "Step", "Steps"]


class Engine:
    """Generates from one model, which stays in the mode it is in and must not be dropping out."""

    def __init__(
        self,
        model: Transformer,
        eos_ids: tuple[int, ...] = (),
        options: EngineOptions | None = None,
        *,
        speculation: Speculation | None = None,
    ) -> None:
        """`eos_ids` end a sequence; they are part of it. `speculation` in place of the one that the options name."""
        self.model = model
        self.eos_ids = frozenset(eos_ids)
        self.options = options or EngineOptions()
        self.stats = EngineStats()
        device, dtype = placement(model)
        self.pool = pool_of(model.config, self.options, dtype, device)
        self._pinned = 0
        self._alone = turns_whole_texts(model.config)
        self._caches = self.options.prefix_caching and not self._alone
        cold = cold_blocks_of(self.options, self.pool) if self._caches else None
        self.blocks = BlockManager(self.pool.count, self.options.block_size, cold)
        self.adapters = Adapters(model)
        self._reader = Reader(model, self.pool, self.adapters)
        self._settler = Settler(model.config, self._reader, self.blocks, publishes=self._caches)
        own = self.pool, self.blocks, self.options, self.stats
        self._scheduler = Scheduler(*own, finds=self._caches, in_pieces=not self._alone, cold=cold)
        self._intake = Intake(model, self.adapters, self.eos_ids, self.context)
        self.speculation = speculation or speculation_of(self.options, model)
        self._drafting: Drafting | None = None
        if self.speculation is not None and not self._alone:
            parts = self.pool, self._scheduler, self._settler, self.stats
            self._drafting = Drafting(self.speculation, model.config, *parts)

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer have at most: what the model allows and the pool holds."""
        return min(self.model.config.max_position_embeddings, self.blocks.count * self.blocks.size)

    @property
    def waiting(self) -> int:
        """Sequences that nothing is computed for yet."""
        return len(self._scheduler.waiting)

    @property
    def running(self) -> int:
        """Sequences that take part in the steps."""
        return len(self._scheduler.running)

    @property
    def has_work(self) -> bool:
        """Whether any sequence is not over."""
        return bool(self._scheduler.waiting or self._scheduler.running)

    def add(
        self,
        ids: list[int],
        params: SamplingParams,
        *,
        n: int = 1,
        priority: int = 0,
        constraint: Constraint | None = None,
        paced: bool = False,
        adapter: str | None = None,
    ) -> list[Sequence]:
        """n sequences that wait for their turn; the prompt is read once for all, with seeds seed, seed + 1, and so on.

        `adapter` is one of the model's, by name (infer/adapters). UserError for a prompt that is empty, too long or has
        unknown ids, and for an adapter that is not there.
        """
        seeds = [None if params.seed is None else (params.seed + i) % 2**63 for i in range(n)]
        made = [self._intake.writing(ids, replace(params, seed=seed), adapter) for seed in seeds]
        for sequence in made:
            sequence.priority, sequence.paced = priority, paced
            sequence.constraint = constraint.fork() if constraint and sequence is not made[0] else constraint
            sequence.state = "behind"
        made[0].siblings = made[1:]
        self._scheduler.add(made[0])
        return made

    def score(self, ids: list[int], *, priority: int = 0, adapter: str | None = None) -> Sequence:
        """A sequence that is only read, for its `logprobs`: of each token after the first. UserError as in `add`."""
        sequence = self._intake.reading(ids, adapter)
        sequence.scored = True
        return self._wait(sequence, priority)

    def embed(self, ids: list[int], *, priority: int = 0, adapter: str | None = None) -> Sequence:
        """A sequence that is only read, for its `embedding`: the mean of its last hidden states. Errors as in `add`."""
        sequence = self._intake.reading(ids, adapter)
        sequence.pooled = True
        return self._wait(sequence, priority)

    def pin(self, ids: list[int]) -> list[int]:
        """Reads a text that many will begin with, and keeps its full blocks whatever else needs room -> what `unpin`
        takes. UserError as in `score`, and where less than one context would be left for everybody else."""
        kept = len(ids) // self.blocks.size
        if self.blocks.count - self._pinned - kept < self.blocks.blocks_of(self.context):
            raise UserError(f"pinning {len(ids)} tokens leaves less than a context of {self.context}: give cache_bytes")
        sequence = self.run(self._wait(self._intake.reading(ids), 0))
        found, _ = self.blocks.find(sequence.root, sequence.prompt)
        self._pinned += len(found)
        return found

    def unpin(self, blocks: list[int]) -> None:
        """What `pin` gave is kept no longer than the rest."""
        self._pinned -= len(blocks)
        self.blocks.release(blocks)

    def stream(
        self,
        ids: list[int],
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> "Steps":
        """The steps of one sequence, computed when they are asked for. UserError as in `add`, at once."""
        return self.streams(ids, params, 1, constraint=constraint, adapter=adapter)[0]

    def streams(
        self,
        ids: list[int],
        params: SamplingParams,
        n: int,
        *,
        constraint: Constraint | None = None,
        adapter: str | None = None,
    ) -> list["Steps"]:
        """Those of n sequences with the same prompt; they share the steps while their callers take turns."""
        if params.num_beams > 1:
            raise UserError(
                f"num_beams = {params.num_beams}: beam search knows its answer only at the end, it cannot be streamed"
            )
        made = self.add(ids, params, n=n, constraint=constraint, paced=True, adapter=adapter)
        return [Steps(self, sequence) for sequence in made]

    def run(self, sequence: Sequence) -> Sequence:
        """Steps until a sequence is over. VesaliusError where it cannot go on."""
        while not sequence.is_over:
            self.step()
        if sequence.error is not None:
            raise sequence.error
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Nothing more is wanted of a sequence; its blocks are free at once. Not an error where it is over."""
        if sequence.is_over:
            return
        self._end(sequence, "cancelled")

    # A decorator and not a `with` in Steps: what yields inside inference mode leaves its caller in it.
    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """One pass over the model -> the sequences that are further now: that wrote, ended, or failed.

        A sequence that cannot go on has its `error`; the others do not mind.
        """
        self._forget_where_frequencies_change()
        planned = self._scheduler.plan()
        groups = [[part] for part in planned] if self._alone else [planned] if planned else []
        return [sequence for group in groups for sequence in self._pass(group)]

    @torch.inference_mode()
    def beams(self, ids: list[int], params: SamplingParams, *, adapter: str | None = None) -> list[Beam]:
        """The best `num_beams` answers that beam search finds, best first. Errors as in `add`; VesaliusError where the
        model gives no finite probability."""
        sequence = self._intake.writing(ids, params, adapter)
        return search_beams(self.model.config, self._reader, sequence, self.eos_ids)

    def _pass(self, parts: list[Slice]) -> list[Sequence]:
        """Reads what was planned together, and goes on with whoever has read all that there is."""
        for part in parts:
            if part.completes and part.sequence.constraint is not None:
                part.sequence.constraint.prepare()
        if self._drafting is not None:
            self._drafting.begin(parts)
        hidden = self._reader.read_slices(parts)  # (N, D)
        self.stats.steps += 1
        self.stats.read_tokens += len(hidden)
        complete = self._settler.settle(parts, hidden)
        done = self._end_read_only(complete) + self._write(complete, hidden)
        if self._drafting is not None:
            self._drafting.end(parts)
        return done

    def _end_read_only(self, complete: list[tuple[Slice, int]]) -> list[Sequence]:
        done = [part.sequence for part, _ in complete if not part.sequence.limit]
        for sequence in done:
            self._count(sequence)
            self._end(sequence, "finished")
        return done

    def _write(self, complete: list[tuple[Slice, int]], hidden: Tensor) -> list[Sequence]:
        """One more token for each sequence, out of the given row of hidden (N, D), or several where it has a draft; the
        first token of a prompt for all that share it."""
        drafted = [(part, row) for part, row in complete if part.draft]
        writers = [(part.sequence, row) for part, row in complete if part.sequence.limit and not part.draft]
        for sequence, row in list(writers):
            if not sequence.ids:
                self._count(sequence)
                writers += [(sibling, row) for sibling in self._fork(sequence)]
        if not writers and not drafted:
            return []
        owners = writers + [(part.sequence, row + i) for part, row in drafted for i in range(1 + len(part.draft))]
        states = hidden[torch.tensor([row for _, row in owners], device=hidden.device)]
        logits = self._reader.logits(states, [sequence.adapter for sequence, _ in owners])  # (rows, V)
        sequences, plain = [sequence for sequence, _ in writers], len(writers)
        if writers:
            for sequence, choice in zip(sequences, choose(logits[:plain], sequences), strict=True):
                self._add(sequence, choice)
        if self._drafting is not None:
            self._drafting.wrote(sequences, states[:plain])
            self._drafting.write([part for part, _ in drafted], logits[plain:], states[plain:], self._add)
        sequences += [part.sequence for part, _ in drafted]
        for sequence in sequences:
            if sequence.finish_reason is not None or sequence.error is not None:
                self._end(sequence, "finished")
        return sequences

    def _add(self, sequence: Sequence, choice: Choice | VesaliusError) -> bool:
        """Writes what was chosen -> whether more may come."""
        if isinstance(choice, VesaliusError):
            sequence.error = choice
            return False
        token, logprob, top = choice
        written = len(sequence.ids) + 1
        reason: FinishReason | None = (
            "stop" if token in self.eos_ids else "length" if written >= sequence.limit else None
        )
        if sequence.constraint is not None and reason != "stop":
            try:
                sequence.constraint.accept(token)
                if not self.eos_ids and sequence.constraint.finished:
                    reason = "stop"
            except VesaliusError as error:
                sequence.error = error
                return False
        sequence.add(Step(token, logprob, reason, top))
        self.stats.generated_tokens += 1
        sequence.finish_reason = reason
        return reason is None

    def _fork(self, parent: Sequence) -> list[Sequence]:
        """The sequences that wanted the same prompt, which has been read."""
        siblings = [sibling for sibling in parent.siblings if sibling.state == "behind"]
        parent.siblings = []
        for sibling in siblings:
            self._scheduler.fork(parent, sibling)
        return siblings

    def _end(self, sequence: Sequence, state: State) -> None:
        """Takes a sequence out; the next of those that wait for its prompt reads it in its place."""
        if sequence.state != "behind":
            self._scheduler.remove(sequence)
        sequence.state = state
        if self._drafting is not None:
            self._drafting.speculation.close(sequence)
        heirs = [sibling for sibling in sequence.siblings if sibling.state == "behind"]
        sequence.siblings = []
        if heirs:
            heirs[0].siblings = heirs[1:]
            self._scheduler.add(heirs[0])

    def _count(self, sequence: Sequence) -> None:
        self.stats.prompt_tokens += len(sequence.prompt)
        self.stats.cached_tokens += sequence.cached_tokens

    def _forget_where_frequencies_change(self) -> None:
        """Has a text that outgrows the frequencies that its keys are turned by read again (LongRoPE)."""
        border = reread_at(self.model.config)
        for sequence in self._scheduler.running if border else ():
            if sequence.read < border <= sequence.length:
                self._scheduler.forget(sequence)

    def _wait(self, sequence: Sequence, priority: int) -> Sequence:
        sequence.priority = priority
        self._scheduler.add(sequence)
        return sequence


class Steps:
    """The steps of one sequence, each computed when it is asked for. Dropped or closed, it ends the sequence."""

    def __init__(self, engine: Engine, sequence: Sequence) -> None:
        self.sequence = sequence
        self._engine = engine

    def __iter__(self) -> "Steps":
        return self

    def __next__(self) -> Step:
        """VesaliusError where the sequence cannot go on."""
        while not self.sequence.steps:
            if self.sequence.error is not None:
                raise self.sequence.error
            if self.sequence.is_over:
                raise StopIteration
            self._engine.step()
        return self.sequence.steps.popleft()

    def close(self) -> None:
        """No more is wanted."""
        self._engine.cancel(self.sequence)

    def __del__(self) -> None:
        self.close()
