"""The control: how long drafts are, when there are none, and what is told; on a machine whose clock is told too."""

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from infer.speculative.written import text

from vesalius.infer.speculative.closed_form import speedup
from vesalius.infer.speculative.control import FIRST_PAUSE, REFRESH, TIMED
from vesalius.infer.speculative.draft import EMPTY, Draft
from vesalius.infer.speculative.speculation import Speculation


class Guesses:
    """Always as many tokens as it may."""

    needs_hidden = False
    closed = 0

    def propose(self, sequence, limit: int) -> Draft:
        return Draft.chain([1] * limit)

    def close(self, sequence) -> None:
        self.closed += 1


@dataclass
class Machine:
    """Steps in which `sequences` write: a plain one takes a second, a drafted token `cost` of one; a token stands with
    probability alpha."""

    alpha: float
    cost: float
    most: int = 7
    controlled: bool = True
    sequences: int = 1
    now: float = 0.0
    lengths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guesses = Guesses()
        self.speculation = Speculation(self.guesses, most=self.most, controlled=self.controlled, clock=lambda: self.now)
        self.texts = [text([1]) for _ in range(self.sequences)]
        self.generator = torch.Generator().manual_seed(0)

    def step(self, *, limit: int = 100, only_wrote: bool = True, slower: float = 1.0) -> list[Draft]:
        self.speculation.begin(self.sequences)
        drafts = [self.speculation.draft(one, limit) for one in self.texts]
        for one, draft in zip(self.texts, drafts, strict=True):
            tries = (torch.rand(len(draft), generator=self.generator) < self.alpha).int()
            self.speculation.keep(one, draft, int(tries.cumprod(0).sum()))
        self.now += slower * (1 + self.cost * sum(map(len, drafts)) / self.sequences)
        self.speculation.end(only_wrote=only_wrote)
        self.lengths.append(max(map(len, drafts)))
        return drafts

    def run(self, steps: int) -> list[int]:
        for _ in range(steps):
            self.step()
        return self.lengths


def test_plain_steps_are_timed_first_and_now_and_then():
    lengths = Machine(alpha=1.0, cost=0.0).run(3 * REFRESH)
    assert lengths[:TIMED] == [0] * TIMED
    plain = [i for i, length in enumerate(lengths[TIMED:]) if not length]
    assert plain == [REFRESH, 2 * REFRESH + 1]
    assert set(lengths[-50:]) == {7}


@pytest.mark.parametrize(("alpha", "cost"), [(0.9, 0.02), (0.8, 0.1), (0.6, 0.1), (0.5, 0.3)])
def test_drafts_become_as_long_as_the_closed_form_says(alpha, cost):
    machine = Machine(alpha, cost, most=12)
    late = [length for length in machine.run(1500)[500:] if length]
    best = max(range(1, 13), key=lambda gamma: speedup(alpha, gamma, cost))
    # α is known from the last 25 tokens only: the length sways around the best one
    assert abs(sum(late) / len(late) - best) < 2
    assert speedup(alpha, sum(late) / len(late), cost) > 0.97 * speedup(alpha, best, cost)


@pytest.mark.parametrize(("alpha", "cost"), [(0.1, 0.3), (0.02, 0.1), (0.9, 1.5), (0.0, 0.05)])
def test_where_it_does_not_pay_it_is_off_but_for_a_look_now_and_then(alpha, cost):
    lengths = Machine(alpha, cost).run(2000)
    assert sum(1 for length in lengths[200:] if length) < 30
    assert any(lengths[200:])


def test_it_is_on_again_when_the_text_changes():
    machine = Machine(alpha=0.0, cost=0.05)
    machine.run(200)
    machine.alpha = 1.0
    machine.run(400)
    assert min(length for length in machine.lengths[-100:] if length) == 7
    assert sum(machine.lengths[-100:]) > 90 * 7


def test_a_pause_is_over_after_its_tokens():
    machine = Machine(alpha=0.0, cost=0.5)
    lengths = machine.run(120)
    off = [i for i in range(1, len(lengths)) if lengths[i - 1] and not lengths[i]]
    gaps = [sum(1 for _ in run) for value, run in itertools.groupby(lengths[off[0] :], key=bool) if not value]
    assert FIRST_PAUSE in gaps[:2]
    assert gaps == sorted(gaps) or gaps[:-1] == sorted(gaps[:-1])  # the last was cut off


def test_a_sequence_begins_with_what_the_ones_before_it_showed():
    machine = Machine(alpha=0.0, cost=0.3)
    machine.run(100)
    machine.texts = [text([2])]
    machine.lengths.clear()
    assert machine.run(10) == [0] * 10


def test_without_control_every_draft_is_as_long_as_it_may_be():
    lengths = Machine(alpha=0.0, cost=1.0, controlled=False).run(50)
    assert set(lengths[TIMED:]) == {7}


def test_the_limit_of_the_engine_holds():
    machine = Machine(alpha=1.0, cost=0.0)
    for _ in range(TIMED):
        machine.step()
    assert [len(machine.step(limit=limit)[0]) for limit in (3, 0, 1)] == [3, 0, 1]


@pytest.mark.parametrize("sequences", [1, 4])
def test_the_report_says_what_happened(sequences):
    machine = Machine(alpha=0.8, cost=0.05, controlled=False, sequences=sequences)
    machine.run(2000)
    report = machine.speculation.report()
    assert report.alpha == pytest.approx(0.8, abs=0.02)
    assert report.cost == pytest.approx(0.05)
    assert (report.gamma, report.depth) == (7, pytest.approx(7))
    assert report.predicted == pytest.approx(speedup(0.8, 7, 0.05), rel=0.03)
    assert report.measured == pytest.approx(report.predicted, rel=0.03)
    assert 1 < report.overall < report.measured
    assert report.drafted > report.kept > 0


def test_before_anything_happened_the_report_says_so():
    report = Speculation(Guesses()).report()
    assert (report.drafted, report.alpha, report.predicted, report.measured, report.overall) == (0, 0, 1, 1, 1)


def test_a_step_that_read_prompts_or_was_interrupted_tells_nothing_of_time():
    machine = Machine(alpha=1.0, cost=0.1)
    for _ in range(10):
        machine.step(only_wrote=False, slower=9.0)
    assert machine.lengths == [0] * 10  # no plain step was timed
    machine.run(TIMED + 5)
    machine.step(slower=50.0)  # one slow step among many
    machine.run(20)
    assert machine.lengths[-1] == 7


def test_each_number_of_sequences_is_timed_for_itself():
    machine = Machine(alpha=1.0, cost=0.0)
    machine.run(10)
    machine.sequences, machine.texts = 2, [text([1]), text([2])]
    machine.run(TIMED + 1)
    assert machine.lengths[10:] == [0] * TIMED + [7]


def test_a_closed_sequence_is_forgotten_everywhere():
    machine = Machine(alpha=1.0, cost=0.0)
    machine.run(5)
    machine.speculation.close(machine.texts[0])
    assert machine.guesses.closed == 1
    assert len(machine.speculation._evidence) == 0


def test_a_draft_that_has_nothing_is_no_evidence():
    speculation = Speculation(Guesses())
    speculation.keep(text([1]), EMPTY, 0)
    assert len(speculation._evidence) == 0
    assert speculation.report().drafted == 0


@pytest.mark.parametrize("most", [0, 63])
def test_lengths_that_no_draft_has_are_refused(most):
    with pytest.raises(ValueError, match="from 1 to 62"):
        Speculation(Guesses(), most=most)
