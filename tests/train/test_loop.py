"""The loop: budgets, rates, records, precision, and how a run ends."""

import os
import signal

import pytest
import torch

from vesalius.train.training import Callback


class Interrupt(Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_batch(self, run, batch):
        if run.step + 1 == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("budget", "steps"), [({"steps": 7}, 7), ({"tokens": 64 * 5}, 5), ({"tokens": 64 * 4 + 1}, 5)])
def test_runs_until_the_budget_is_used_up(train, budget, steps):
    result, recorder = train(**budget)
    assert (result.step, result.stopped, result.tokens) == (steps, "budget", 64 * steps)
    assert [record["step"] for record in recorder.steps] == list(range(1, steps + 1))


def test_a_budget_in_minutes_ends_by_the_clock(train):
    result, recorder = train(minutes=0.3 / 60)
    assert result.stopped == "budget"
    assert result.seconds >= 0.3
    assert recorder.steps[-2]["seconds"] < 0.3


def test_a_source_that_ends_ends_the_run(train, random_batches):
    result, _ = train(batches=random_batches(stop=3))
    assert (result.step, result.stopped) == (3, "data")


def test_a_small_model_learns_one_batch(train, random_batches):
    class Same(random_batches):
        def __next__(self):
            self.index = 0
            return super().__next__()

    _, recorder = train(batches=Same(), steps=60, learning_rate=1e-2)
    assert recorder.losses[-1] < 0.1 * recorder.losses[0]


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam", "sgd", "lion"])
def test_every_optimizer_runs_and_repeats_itself(train, optimizer):
    rate = {"lion": 1e-3}.get(optimizer, 1e-2)
    losses = [train(optimizer=optimizer, learning_rate=rate, steps=4)[1].losses for _ in range(2)]
    assert losses[0] == losses[1]


def test_the_rate_follows_the_schedule_at_the_middle_of_each_step(train):
    _, recorder = train(steps=4, schedule="linear", learning_rate=0.008)
    assert [record["lr"] for record in recorder.steps] == pytest.approx([0.007, 0.005, 0.003, 0.001])


def test_each_group_keeps_its_own_rate(train):
    class Rates(Callback):
        def on_step(self, run, record):
            self.rates = {group["role"]: group["lr"] for group in run.optimizer.param_groups}

    rates = Rates()
    train(rates, steps=1, optimizer="muon", schedule="linear", learning_rate=0.02, embedding_learning_rate=0.004)
    assert rates.rates == pytest.approx({"matrix": 0.01, "embedding": 0.002, "vector": 0.002})


def test_a_record_has_what_the_report_reads(train):
    _, recorder = train(steps=1)
    names = {"kind", "step", "tokens", "loss", "lr", "grad_norm", "tok_per_s", "seconds"}
    assert set(recorder.steps[0]) == names
    assert recorder.steps[0]["kind"] == "step"


def test_dropout_is_drawn_from_the_seed(train, tiny_model):
    losses = [train(model=tiny_model(dropout=0.5), steps=3, seed=seed)[1].losses for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_precisions_learn_what_float32_learns(train, precision):
    exact = train(steps=5, learning_rate=1e-2)[1].losses
    short = train(steps=5, learning_rate=1e-2, precision=precision)[1].losses
    assert short != exact
    assert short == pytest.approx(exact, rel=0.01)


def test_an_overflow_in_float16_lowers_the_scale_and_is_no_fault(train):
    class HugeScale(Callback):
        def on_start(self, run):
            run.scaler.scale = 2.0**100

        def on_stop(self, run):
            self.scale = run.scaler.scale

    watcher = HugeScale()
    result, recorder = train(watcher, steps=2, precision="float16")
    assert result.step == 2
    assert watcher.scale < 2.0**100
    assert recorder.events == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_is_given_back(train, number):
    before = signal.getsignal(number)
    result, recorder = train(Interrupt(3, number), steps=10)
    assert (result.step, result.stopped) == (3, "interrupted")
    assert len(recorder.steps) == 3
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once(train):
    class Twice(Callback):
        stopped = None

        def on_batch(self, run, batch):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        def on_stop(self, run):
            self.stopped = run.stopped

    callback = Twice()
    with pytest.raises(KeyboardInterrupt):
        train(callback)
    assert callback.stopped == ""


def test_the_model_is_trained_where_it_is(train, tiny_model):
    model = tiny_model().eval()
    before = model.model.embed_tokens.weight.detach().clone()
    train(model=model, steps=1)
    assert model.training
    assert not torch.equal(model.model.embed_tokens.weight, before)
