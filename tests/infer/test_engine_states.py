"""Whatever happens in whatever order, each sequence writes what it writes alone, and no block is lost or given away
twice."""

import functools
from collections import Counter

import torch
from engine_models import tiny_model
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
    )
    def begin(self, kind, preemption, prefix_caching, blocks, max_running, step_tokens, swapped):
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
            ),
        )
        self.all: list[Sequence] = []

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
        prompt = [TEXT[start * 19]] + TEXT[1:length]
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


EngineStates.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestEngineStates = EngineStates.TestCase
