"""Batches that teach nothing are refused; templates that never teach the end of a turn are told of."""

from dataclasses import replace

import pytest
import torch

from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE
from vesalius.train.linter import EMPTY_IN_A_ROW, EndOfTurnLinter

EOS = 7


def emptied(batches, wanted):
    """The source, with no target in the batches whose index is wanted."""

    class Emptied(batches):
        def __next__(self):
            batch = super().__next__()
            return replace(batch, targets=torch.full_like(batch.targets, IGNORE)) if wanted(self.index - 1) else batch

    return Emptied()


def test_a_first_batch_without_target_is_refused(train, random_batches):
    with pytest.raises(UserError, match="batch 0 has no target"):
        train(batches=emptied(random_batches, lambda n: n == 0))


def test_a_later_one_is_left_out_and_told(train, random_batches):
    result, recorder = train(batches=emptied(random_batches, lambda n: n == 2), steps=4)
    assert result.step == 4
    assert [(e["event"], e["batch"], e["step"]) for e in recorder.events] == [("skip", "batch 2", 3)]


def test_a_source_that_goes_empty_for_good_ends_the_run(train, random_batches):
    with pytest.raises(UserError, match=f"batch {EMPTY_IN_A_ROW + 1} has no target"):
        train(batches=emptied(random_batches, lambda n: n >= 2), steps=4)


def without(batches, token):
    class Without(batches):
        def __next__(self):
            batch = super().__next__()
            return replace(batch, targets=torch.where(batch.targets == token, token + 1, batch.targets))

    return Without()


def test_a_template_that_never_trains_the_end_of_turn_is_told_once(train, random_batches):
    _, recorder = train(EndOfTurnLinter([EOS], batches=3), batches=without(random_batches, EOS), steps=8)
    assert [(event["event"], event["step"]) for event in recorder.events] == [("warning", 3)]
    assert "will not learn to stop" in recorder.events[0]["reason"]


def test_one_end_of_turn_is_enough(train):
    _, recorder = train(EndOfTurnLinter([EOS], batches=8), steps=8)
    assert recorder.events == []
