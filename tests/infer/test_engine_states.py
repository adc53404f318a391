"""Whatever happens in whatever order, each sequence writes what it writes alone, and no block is lost or given away
twice."""

import functools
from collections import Counter

import torch
from engine_models import tiny_model
from guessing import Knowing, free
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from vesalius.infer.blocks import GONE
from vesalius.infer.engine import Engine, EngineOptions, Sequence
from vesalius.infer.params import SamplingParams

MOST = 14
TEXT = torch.randint(61, (40,), generator=torch.Generator().manual_seed(1)).tolist()


@functools.cache
def model(kind: str):
    return tiny_model(kind)


@functools.cache
def alone(kind: str, prompt: tuple[int, ...]) -> list[int]:
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(MOST):
            tokens.append(int(model(kind)(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


class Answers(dict):
    """Of a kind of model, by prompt."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def get(self, prompt, default=None):
        return list(alone(self.kind, prompt))


class EngineStates(RuleBasedStateMachine):
    sequences = Bundle("sequences")

    @initialize(
        kind=st.sampled_from(["grouped", "window", "latent"]),
        preemption=st.sampled_from(["recompute", "swap"]),
        prefix_caching=st.booleans(),
        blocks=st.integers(14, 40),
        max_running=st.integers(1, 5),
        step_tokens=st.integers(1, 40),
        swapped=st.integers(0, 20),
        guessed=st.sampled_from([0, 4, 12]),
        cold=st.integers(0, 30),
    )
    def begin(self, kind, preemption, prefix_caching, blocks, max_running, step_tokens, swapped, guessed, cold):
        self.kind, probe = kind, Engine(model(kind), options=EngineOptions(block_size=4))
        self.engine = Engine(
            model(kind),
            options=EngineOptions(
                block_size=4,
                cache_bytes=blocks * probe.pool.block_bytes,
                max_running=max_running,
                step_tokens=step_tokens,
                preemption=preemption,
                prefix_caching=prefix_caching,
                swap_bytes=swapped * probe.pool.block_bytes,
                cold_bytes=cold * probe.pool.block_bytes,
            ),
            speculation=free(Knowing(Answers(kind)), guessed) if guessed else None,
        )
        self.all: list[Sequence] = []
        self.came_back = 0
        if (tier := self.engine.blocks._below) is not None:
            take_back = tier.take_back

            def counted(*which):
                found = take_back(*which)
                self.came_back += 4 * len(found[0])
                return found

            tier.take_back = counted

    @rule(
        target=sequences,
        start=st.integers(0, 2),
        length=st.integers(1, 37),
        tokens=st.integers(1, MOST),
        n=st.integers(1, 3),
        priority=st.integers(-1, 1),
    )
    def add(self, start, length, tokens, n, priority):
        """Texts that begin alike, so that they share blocks; several greedy answers to a prompt are the same one."""
        prompt = [TEXT[start * 19], *TEXT[1:length]]
        made = self.engine.add(prompt, SamplingParams(max_tokens=tokens), n=n, priority=priority)
        self.all += made
        return multiple(*made)

    @rule(target=sequences, length=st.integers(1, 37), scored=st.booleans())
    def only_read(self, length, scored):
        sequence = (self.engine.score if scored else self.engine.embed)(TEXT[:length])
        self.all.append(sequence)
        return sequence

    @rule(times=st.integers(1, 6))
    def step(self, times):
        for _ in range(times):
            self.engine.step()

    @rule(sequence=consumes(sequences))
    def cancel(self, sequence):
        self.engine.cancel(sequence)
        assert not sequence.table

    @rule(choice=st.integers(0, 10))
    def preempt(self, choice):
        """As if its blocks were needed, at any moment."""
        scheduler = self.engine._scheduler
        if scheduler.running:
            scheduler._preempt(scheduler.running[choice % len(scheduler.running)])

    @invariant()
    def every_block_has_as_many_holders_as_tables_that_name_it(self):
        named = Counter(block for sequence in self.all for block in sequence.table if block != GONE)
        blocks = self.engine.blocks
        assert {i: count for i, count in enumerate(blocks._references) if count} == named
        assert blocks.used == len(named)
        assert len({*blocks._free, *blocks._idle, *named}) == blocks.count

    @rule(count=st.integers(1, 40))
    def go_cold(self, count):
        """As if somebody needed the room, at any moment."""
        blocks = self.engine.blocks
        blocks.release([blocks.allocate() for _ in range(min(count, blocks.available))])

    @rule()
    def forget_all(self):
        self.engine.blocks.clear()
        assert not self.engine.blocks._below

    @invariant()
    def the_file_holds_what_it_says(self):
        assert self.engine.stats.cold_tokens == self.came_back
        if (tier := self.engine.blocks._below) is not None:
            held = [slot for ticket in tier._tickets.values() for slot in tier._space._held[ticket]]
            assert len({*held, *tier._space._free}) == len(tier._space._slots)
            assert len(held) == len(tier) == len(tier._space._held)

    @invariant()
    def what_was_found_is_whole_blocks_and_never_all_of_a_prompt(self):
        for sequence in self.all:
            assert sequence.cached_tokens % 4 == 0
            assert sequence.cached_tokens < len(sequence.prompt)

    @invariant()
    def a_sequence_holds_room_for_what_it_has_read(self):
        for sequence in self.all:
            assert sequence.set_aside is not None or len(sequence.table) * 4 >= sequence.read

    def teardown(self):
        steps = 0
        while self.engine.has_work:
            self.engine.step()
            steps += 1
            assert steps < 3000, "nothing goes on"
        for sequence in self.all:
            expected = alone(self.kind, tuple(sequence.prompt))
            assert sequence.ids == expected[: len(sequence.ids)]
            assert sequence.state == "cancelled" or len(sequence.ids) == sequence.limit
        assert self.engine.blocks.used == 0
        swap = self.engine._scheduler._swap
        assert swap is None or swap.free == len(swap._slots)
        if self.engine.blocks._below is not None:
            self.every_block_in_the_file_is_what_its_text_computes_to()

    def every_block_in_the_file_is_what_its_text_computes_to(self):
        tier, pool, block = self.engine.blocks._below, self.engine.pool, self.engine.blocks.allocate()
        for content, ticket in list(tier._tickets.items())[:3]:
            text: list[int] = []
            link = content
            while link is not None:
                text, link = [*link.tokens, *text], link.parent
            fresh = Engine(model(self.kind), options=EngineOptions(block_size=4))
            fresh.run(fresh.add([*text, 0], SamplingParams(max_tokens=1))[0])
            computed = fresh.pool.read(fresh.blocks.find(None, text)[0][-1:])
            tier._space.read([ticket], [block])
            for ours, theirs in zip(pool.read([block]), computed, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


EngineStates.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestEngineStates = EngineStates.TestCase
