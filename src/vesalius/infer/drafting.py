"""Several tokens in one step of the engine: drafts go behind the slices that a step reads, and of those what stands is
kept in the cache.

Who drafts is the speculation, if there is one, and before it the grammar of a constrained answer: where it leaves one
way to go on, as in the names of a JSON object, those tokens are read in the step of the token before them. They are
chosen as any draft is, from what the mask leaves, so the answer is what it would be without. ("Jump-forward": Zheng et
al. 2023, arXiv:2312.07104, section 4.)

The rows of a draft take the positions behind the last certain token, one each, whatever their depth in a tree; so the
keys and values of the path that stands are moved together, and the rest is written over by the next step.
Left out: a draft behind the first reading of a prompt, and for texts that are turned as a whole.
"""

from torch import Tensor

from vesalius.infer.paged_cache import BlockPool
from vesalius.infer.scheduler import Scheduler, Slice
from vesalius.infer.sequence import Sequence
from vesalius.infer.settling import Settler
from vesalius.infer.speculative.draft import EMPTY, MOST_NODES, Draft
from vesalius.infer.speculative.speculation import Speculation
from vesalius.infer.speculative.verify import Write, write_along
from vesalius.infer.stats import EngineStats
from vesalius.models.config import ModelConfig


class Drafting:
    """The drafts of one engine."""

    def __init__(
        self,
        speculation: Speculation | None,
        config: ModelConfig,
        pool: BlockPool,
        scheduler: Scheduler,
        settler: Settler,
        stats: EngineStats,
    ) -> None:
        self.speculation = speculation
        self._pool, self._scheduler, self._settler, self._stats = pool, scheduler, settler, stats
        # Windows and slopes count the places between two rows, which in a tree are not their distance in the text.
        self._only_chains = bool(config.sliding_window) or config.position == "alibi"

    def force(self, part: Slice) -> None:
        """Puts what a grammar leaves no choice about behind a slice that goes on with an answer."""
        sequence = part.sequence
        if sequence.constraint is not None and sequence.ids:
            tokens = sequence.constraint.forced()[: min(MOST_NODES, sequence.limit - len(sequence.ids) - 1)]
            part.draft = Draft.chain(tokens[: self._scheduler.reserve_more(part, len(tokens))])
            part.forced = bool(part.draft)

    def begin(self, parts: list[Slice]) -> None:
        """Puts a guess behind every other one of them."""
        if self.speculation is None:
            return
        writing = [part for part in parts if part.completes and part.sequence.ids]
        self.speculation.begin(len(writing))
        # The rows that a row reads are a set of at most 63: not for a long piece of a prompt in the same step.
        chains = self._only_chains or any(part.count > MOST_NODES for part in parts)
        for part in writing:
            if part.forced:
                continue
            sequence = part.sequence
            draft = self.speculation.draft(sequence, sequence.limit - len(sequence.ids) - 1)
            draft = draft.spine if chains and not draft.is_chain else draft
            part.draft = draft.head(self._scheduler.reserve_more(part, len(draft))) if draft else EMPTY

    def wrote(self, sequences: list[Sequence], states: Tensor) -> None:
        """One token each was written without a draft, out of these hidden states (S, D)."""
        if self.speculation is None:
            return
        for sequence, state in zip(sequences, states, strict=True):
            self.speculation.keep(sequence, EMPTY, 0)
            self._remember(sequence, state)

    def write(self, parts: list[Slice], logits: Tensor, states: Tensor, write: Write) -> None:
        """logits (N, V) and hidden states (N, D) behind the last certain token and each node of every draft: writes
        what stands and one token more."""
        first = 0
        for part in parts:
            end = first + 1 + len(part.draft)
            path = write_along(part.draft, logits[first:end], part.sequence, write)
            self._remember(part.sequence, states[first + 1 + path[-1] if path else first])
            self._keep(part, path)
            first = end

    def _keep(self, part: Slice, path: list[int]) -> None:
        sequence = part.sequence
        if path != list(range(len(path))):
            self._pool.move(sequence.table, [sequence.read + node for node in path], sequence.read)
        sequence.read += len(path)
        self._settler.publish(sequence)
        if part.forced:
            self._stats.forced_tokens += len(path)
        elif self.speculation is not None:
            self.speculation.keep(sequence, part.draft, len(path))
            self._stats.drafted += len(part.draft)
            self._stats.accepted += len(path)

    def _remember(self, sequence: Sequence, state: Tensor) -> None:
        """Keeps what the next token came from, where somebody drafts by it."""
        if self.speculation is not None and self.speculation.needs_hidden:
            sequence.hidden = state.clone()

    def end(self, parts: list[Slice]) -> None:
        """The step is done."""
        if self.speculation is not None:
            wrote = all(part.count == 1 and part.sequence.ids and not part.forced for part in parts)
            self.speculation.end(only_wrote=wrote)

    def close(self, sequence: Sequence) -> None:
        """The sequence is over."""
        if self.speculation is not None:
            self.speculation.close(sequence)
