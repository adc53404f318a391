"""Faults injected into a running training: each is caught before the optimizer, named, and survived where it can be."""

from dataclasses import replace

import pytest
import torch

from vesalius.core.errors import VesaliusError
from vesalius.train.checkpoints import Checkpoints
from vesalius.train.objectives import NextToken
from vesalius.train.training import Callback

Q_PROJ = "model.layers.1.self_attn.q_proj"


class At(Callback):
    """Calls `fault(run)` before the steps that try the given batches."""

    def __init__(self, batches, fault):
        self.batches, self.fault = {f"batch {n}" for n in batches}, fault

    def on_batch(self, run, batch):
        if batch.source in self.batches:
            self.fault(run)


class Weights(Callback):
    """The weights after every step."""

    def __init__(self):
        self.after = {}

    def on_step(self, run, record):
        self.after[run.step] = [p.detach().clone() for p in run.model.parameters()]


def scaled_on(batch_numbers, factor):
    """NextToken whose loss is multiplied on the given batches."""

    def objective(model, batch):
        loss, metrics = NextToken()(model, batch)
        wrong = int(batch.source.split()[1]) in batch_numbers
        return loss * factor if wrong else loss, metrics

    return objective


def infinite_gradient(run):
    """One inf in the next gradient of one parameter."""
    parameter = run.model.get_parameter(f"{Q_PROJ}.weight")

    def hook(gradient):
        handle.remove()
        return gradient.index_fill(0, torch.tensor([0]), float("inf"))

    handle = parameter.register_hook(hook)


def broken_weight(run):
    with torch.no_grad():
        run.model.get_parameter(f"{Q_PROJ}.weight")[0, 0] = float("nan")


def infinite_activation(run):
    """One inf in the next two outputs of a module: of the step, and of the pass that looks for it."""
    seen = []

    def hook(module, inputs, output):
        seen.append(1)
        if len(seen) == 2:
            handle.remove()
        return output.index_fill(1, torch.tensor([0]), float("inf"))

    handle = run.model.get_submodule(Q_PROJ).register_forward_hook(hook, prepend=True)


def events(recorder):
    return [(event["event"], event["layer"], event["batch"]) for event in recorder.events]


def test_an_infinite_gradient_is_skipped_and_named(train):
    result, recorder = train(At([2], infinite_gradient), steps=6)
    assert events(recorder) == [("skip", f"{Q_PROJ}.weight", "batch 2")]
    assert "gradient norm is inf" in recorder.events[0]["reason"]
    assert result.step == 6


def test_a_non_finite_activation_is_found_where_it_began(train):
    _, recorder = train(At([2], infinite_activation), steps=6)
    assert events(recorder) == [("skip", Q_PROJ, "batch 2")]
    assert "loss is nan" in recorder.events[0]["reason"]


def test_a_skipped_step_leaves_no_trace_in_the_weights(train, random_batches):
    """The run that skips batch 2 equals, bit for bit, the run whose data have no batch 2."""

    class WithoutTwo(random_batches):
        def __next__(self):
            batch = super().__next__()
            return super().__next__() if batch.source == "batch 2" else batch

    skipping, clean = Weights(), Weights()
    train(skipping, At([2], infinite_gradient), steps=4)
    train(clean, batches=WithoutTwo(), steps=4)
    assert all(torch.equal(x, y) for x, y in zip(skipping.after[4], clean.after[4], strict=True))


def test_a_spike_is_skipped_with_the_batch_named(train):
    _, recorder = train(objective=scaled_on({20}, 5.0), steps=24, guard={"window": 16})
    assert [(event["event"], event["batch"]) for event in recorder.events] == [("skip", "batch 20")]
    assert "loss" in recorder.events[0]["reason"]


def test_a_spike_in_one_layer_names_it(train):
    def louder(run):
        handle = run.model.get_parameter(f"{Q_PROJ}.weight").register_hook(lambda g: (handle.remove(), 1e6 * g)[1])

    _, recorder = train(At([20], louder), steps=24, guard={"window": 16})
    assert events(recorder) == [("skip", f"{Q_PROJ}.weight", "batch 20")]
    assert "gradient norm" in recorder.events[0]["reason"]


def test_broken_weights_go_back_to_a_checkpoint_at_once(train, tmp_path):
    weights = Weights()
    checkpoints = Checkpoints(tmp_path, every=0.0)
    result, recorder = train(weights, checkpoints, At([3], broken_weight), steps=6, schedule="constant")
    assert events(recorder) == [("rollback", f"{Q_PROJ}.weight", "batch 3")]
    assert recorder.events[0]["lr_scale"] == 0.5
    assert result.step == 6
    assert [record["lr"] for record in recorder.steps] == pytest.approx([1e-3] * 3 + [5e-4] * 3)
    assert all(torch.isfinite(w).all() for w in weights.after[6])


def test_going_back_takes_the_weights_of_the_checkpoint_and_the_data_that_come_next(train, tmp_path):
    """With a rate of nearly 0 afterwards, the weights stay those of step 3."""
    weights = Weights()
    settings = {"guard": {"rate_factor": 1e-12}, "weight_decay": 0.0}
    _, recorder = train(weights, Checkpoints(tmp_path, every=0.0), At([3], broken_weight), steps=4, **settings)
    assert [event["event"] for event in recorder.events] == ["rollback"]
    assert all(torch.equal(x, y) for x, y in zip(weights.after[3], weights.after[4], strict=True))


def test_bad_steps_in_a_row_go_back_after_so_many_skips(train, tmp_path):
    bad = At([5, 6, 7], infinite_gradient)
    result, recorder = train(Checkpoints(tmp_path, every=0.0), bad, steps=8, guard={"skips": 2})
    assert [event["event"] for event in recorder.events] == ["skip", "skip", "rollback"]
    assert result.step == 8


def test_a_loss_that_rose_for_good_becomes_usual_after_one_way_back(train, tmp_path):
    rose = scaled_on(range(20, 1000), 5.0)
    result, recorder = train(
        Checkpoints(tmp_path), objective=rose, steps=60, guard={"window": 16, "skips": 2}, clip_norm=0.1
    )
    assert [event["event"] for event in recorder.events] == ["skip", "skip", "rollback"]
    assert result.step == 60


def test_a_source_that_stays_broken_ends_in_an_error_that_says_what_was_seen(train, tmp_path, random_batches):
    broken = scaled_on(range(4, 1000), float("nan"))
    with pytest.raises(VesaliusError, match=r"step 5 the loss is nan on the batch batch \d+, after going back 2 times"):
        train(Checkpoints(tmp_path), objective=broken, steps=20, guard={"skips": 1, "rollbacks": 2})


def test_without_checkpoints_there_is_no_way_back(train):
    with pytest.raises(VesaliusError, match="no checkpoint to go back to"):
        train(At([3], broken_weight), steps=6)


def test_giving_up_is_told_too(train, tmp_path):
    class Told(Callback):
        def __init__(self):
            self.events = []

        def on_event(self, run, record):
            self.events.append(record)

    told = Told()
    with pytest.raises(VesaliusError):
        train(told, objective=scaled_on(range(1000), float("nan")), steps=6, guard={"skips": 0, "rollbacks": 0})
    assert told.events[-1]["event"] == "warning"
    assert "giving up" in told.events[-1]["reason"]


def test_a_float16_overflow_that_no_scale_heals_is_a_fault(train):
    class SmallScale(Callback):
        def on_start(self, run):
            run.scaler.scale = 2.0

    with pytest.raises(VesaliusError, match="gradient norm is inf"):
        train(SmallScale(), At(range(1000), infinite_gradient), steps=4, precision="float16")


def test_batches_are_named_in_their_own_words(train, random_batches):
    class Named(random_batches):
        def __next__(self):
            return replace(super().__next__(), source="shard 3, row 17")

    def objective(model, batch):
        loss, metrics = NextToken()(model, batch)
        return loss * float("nan"), metrics

    with pytest.raises(VesaliusError, match="shard 3, row 17"):
        train(batches=Named(), objective=objective, steps=2)
