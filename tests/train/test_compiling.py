"""Compiling is chosen where it pays, is told apart from the steps, and changes nothing else."""

import pytest
import torch

from vesalius.core.errors import UserError
from vesalius.train import compiling, loop
from vesalius.train.training import Callback


@pytest.fixture
def quick(monkeypatch):
    """A backend that only traces, and counts how often."""
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph

    compile_ = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *function, **settings: compile_(*function, **settings | {"backend": backend})
    )
    return calls


@pytest.fixture
def failing(monkeypatch):
    def compiled(objective):
        def loss_of(model, batch):
            raise RuntimeError("no compiler found\nand much more")

        return loss_of

    monkeypatch.setattr(compiling, "_compiled", compiled)


def test_a_compiled_run_has_the_same_losses(train, quick):
    plain = train(steps=4)[1].losses
    _, recorder = train(steps=4, compile="on")
    assert quick
    assert recorder.losses == pytest.approx(plain, abs=1e-5)
    assert [event["kind"] for event in recorder.events] == ["compile"]
    assert recorder.events[0]["seconds"] > 0


def test_the_time_it_takes_is_no_part_of_the_step(train, monkeypatch):
    """Told that 1000 of a step's seconds were spent compiling, the loop counts less than nothing for the step."""
    monkeypatch.setattr(loop, "compile_where_it_pays", lambda run, batch: 1000.0)
    assert train(steps=1)[1].steps[0]["tok_per_s"] < 0


def test_dropout_draws_the_same_numbers_as_without(train, tiny_model, quick):
    plain = train(model=tiny_model(dropout=0.3), steps=3)[1].losses
    compiled = train(model=tiny_model(dropout=0.3), steps=3, compile="on")[1].losses
    assert compiled == pytest.approx(plain, abs=1e-5)


def test_a_short_run_is_not_compiled(train, quick):
    train(steps=6, compile="auto")
    train(minutes=0.2 / 60, compile="auto")
    assert not quick


@pytest.mark.parametrize(
    ("budget", "compiled_after"), [({"minutes": 20.0}, 0), ({"steps": 10**9}, 3), ({"tokens": 10**11}, 3)]
)
def test_a_long_run_is_compiled_as_soon_as_that_is_known(train, quick, random_batches, budget, compiled_after):
    _, recorder = train(batches=random_batches(stop=5), compile="auto", **budget)
    assert [(event["kind"], event["step"]) for event in recorder.events] == [("compile", compiled_after)]


def test_a_resumed_run_does_what_it_did_before(train, quick):
    class Before(Callback):
        def on_restore(self, run):
            run.compiled = True

    _, recorder = train(Before(), steps=2, compile="auto")
    assert [event["kind"] for event in recorder.events] == ["compile"]


def test_a_failing_compiler_is_told_and_the_run_goes_on(train, failing, random_batches):
    result, recorder = train(minutes=20.0, compile="auto", batches=random_batches(stop=3))
    assert result.step == 3
    assert [event["event"] for event in recorder.events] == ["warning"]
    assert "no compiler found" in recorder.events[0]["reason"]


def test_a_compiler_that_was_asked_for_must_work(train, failing):
    with pytest.raises(UserError, match=r"no compiler found\): set train.compile"):
        train(steps=2, compile="on")
