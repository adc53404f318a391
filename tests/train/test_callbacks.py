"""Records on the disk, validation, and utilisation; the order of callbacks does not matter."""

import pytest

from vesalius.core.run_directory import RunDirectory
from vesalius.train.callbacks import RunLogger, Throughput, Validation


@pytest.fixture
def directory(tmp_path):
    return RunDirectory.create(tmp_path / "run")


def test_every_record_has_its_stage(train, directory):
    train(RunLogger(directory, "pretrain"), Validation(2, lambda model: {"loss": 1.5, "bits_per_byte": 0.5}), steps=5)
    records = directory.read_metrics()
    assert {record["stage"] for record in records} == {"pretrain"}
    assert [record["step"] for record in records if record["kind"] == "step"] == [1, 2, 3, 4, 5]
    validations = [record for record in records if record["kind"] == "validation"]
    assert [record["step"] for record in validations] == [2, 4, 5]
    assert validations[0] == {
        "kind": "validation", "stage": "pretrain", "step": 2, "tokens": 128, "loss": 1.5, "bits_per_byte": 0.5
    }  # fmt: skip


def test_a_stage_begun_anew_drops_its_own_records_only(train, directory):
    directory.log(kind="step", stage="pretrain", step=9)
    directory.log(kind="step", stage="sft", step=9)
    train(RunLogger(directory, "sft"), steps=2)
    assert [(r["stage"], r["step"]) for r in directory.read_metrics()] == [("pretrain", 9), ("sft", 1), ("sft", 2)]


def test_validation_is_in_evaluation_mode_and_gives_the_mode_back(train, tiny_model):
    model, modes = tiny_model(dropout=0.5), []

    def evaluate(model):
        modes.append(model.training)
        return {"loss": 0.0}

    train(Validation(1, evaluate), model=model, steps=2)
    assert modes == [False, False]
    assert model.training


def test_a_validation_that_measures_nothing_is_not_told(train):
    assert train(Validation(1, lambda model: {}), steps=2)[1].events == []


def test_validation_after_the_data_end(train, random_batches):
    _, recorder = train(Validation(100, lambda model: {"loss": 0.0}), batches=random_batches(stop=3))
    assert [event["step"] for event in recorder.events] == [3]


@pytest.mark.parametrize("first", [True, False])
def test_utilisation_is_in_the_record_that_is_written(train, directory, first):
    callbacks = [Throughput(flops_per_token=2e6, peak_flops=1e9), RunLogger(directory, "pretrain")]
    train(*(callbacks if first else callbacks[::-1]), steps=1)
    record = directory.read_metrics()[0]
    assert record["mfu"] == pytest.approx(record["tok_per_s"] * 2e6 / 1e9)
