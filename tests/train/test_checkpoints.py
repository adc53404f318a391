"""Checkpoints: whole or absent, the newest kept, damage seen, strangers refused, a resumed run equal bit for bit."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vesalius.core.errors import UserError, VesaliusError
from vesalius.train import checkpoint_files
from vesalius.train.checkpoint_files import list_checkpoints
from vesalius.train.checkpoints import Checkpoints
from vesalius.train.training import Callback


class Crash(Callback):
    """Ends the run as a bug would, in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_batch(self, run, batch):
        if run.step + 1 == self.step:
            raise ZeroDivisionError


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def crashed(train, directory, step=6, **settings):
    with pytest.raises(ZeroDivisionError):
        train(Checkpoints(directory, every=0.0, keep=3), Crash(step), **settings)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam", "sgd", "lion"])
def test_a_resumed_run_has_the_same_losses_bit_for_bit(train, tiny_model, tmp_path, optimizer):
    """With dropout, packed micro-batches and a schedule; the resumed model starts from other weights."""
    settings = {"optimizer": optimizer, "steps": 9, "micro_batch_rows": 3, "warmup": 0.2, "schedule": "cosine"}
    whole = train(model=tiny_model(dropout=0.2), **settings)[1].losses
    crashed(train, tmp_path, model=tiny_model(dropout=0.2), **settings)
    result, recorder = train(Checkpoints(tmp_path), model=tiny_model(seed=9, dropout=0.2), **settings)
    assert recorder.losses == whole[5:]
    assert (result.step, result.tokens) == (9, 9 * 64)


def test_the_guard_goes_on_where_it_was(train, tmp_path):
    """The window of usual losses is in the checkpoint, so a spike right after the resume is one."""

    class Loud(Callback):
        def on_batch(self, run, batch):
            if batch.source == "batch 19":
                run.model.lm_head.weight.register_hook(lambda g: 1e6 * g)

    settings = {"steps": 19, "guard": {"window": 16}}
    crashed(train, tmp_path, step=19, **settings)
    with pytest.raises(VesaliusError, match="robust deviations"):
        train(Loud(), Checkpoints(tmp_path), **settings | {"steps": 20, "guard": {"window": 16, "rollbacks": 0}})


def test_a_float16_run_keeps_its_scale(train, tmp_path):
    class Scale(Callback):
        def on_start(self, run):
            self.scale = run.scaler.scale
            run.scaler.scale = 2.0**9

    crashed(train, tmp_path, precision="float16")
    state = json.loads((list_checkpoints(tmp_path)[0] / "state.json").read_text())
    scale = Scale()
    train(scale, Checkpoints(tmp_path), precision="float16")
    assert scale.scale == state["run"]["scaler"]["scale"]


def test_the_precision_that_was_measured_is_kept(train, tmp_path):
    """ "auto" might choose otherwise in another minute."""

    class Name(Callback):
        def on_start(self, run):
            self.name = run.precision.name

    crashed(train, tmp_path, precision="bfloat16")
    name = Name()
    train(name, Checkpoints(tmp_path), precision="auto")
    assert name.name == "bfloat16"


def test_a_finished_run_does_nothing_more(train, tmp_path):
    train(Checkpoints(tmp_path), steps=3)
    result, recorder = train(Checkpoints(tmp_path), steps=3)
    assert (result.step, result.stopped) == (3, "budget")
    assert recorder.steps == []


def test_an_interrupted_run_is_saved_and_a_failed_one_is_not(train, tmp_path):
    class Stop(Callback):
        def on_batch(self, run, batch):
            if run.step == 3:
                run.interrupt()

    train(Checkpoints(tmp_path / "a"), Stop())
    assert names(tmp_path / "a") == ["step-00000000", "step-00000004"]
    with pytest.raises(ZeroDivisionError):
        train(Checkpoints(tmp_path / "b"), Crash(4))
    assert names(tmp_path / "b") == ["step-00000000"]


def test_the_newest_are_kept(train, tmp_path):
    train(Checkpoints(tmp_path, keep=2, every=0.0), steps=5)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_what_a_checkpoint_holds(train, tmp_path, tiny_model):
    model = tiny_model()
    train(Checkpoints(tmp_path, recipe="[train]\nsteps = 2\n", keep=1), model=model, steps=2, optimizer="muon")
    (path,) = list_checkpoints(tmp_path)
    assert names(path) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    state = json.loads((path / "state.json").read_text())
    assert state["recipe"] == "[train]\nsteps = 2\n"
    assert state["run"]["step"] == 2
    assert state["run"]["loader"] == {"index": 2}
    assert {"torch", "numpy", "python"} == set(state["run"]["random"])
    stored = load_file(path / "model.safetensors")
    assert stored.keys() == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(parameter, stored[name]) for name, parameter in model.named_parameters())


def test_frozen_weights_are_not_in_it_and_must_be_the_same_when_the_run_goes_on(train, tmp_path, tiny_model):
    def partly(seed=0, layer=0):
        model = tiny_model(seed=seed)
        model.requires_grad_(False).model.layers[layer].mlp.requires_grad_(True)
        return model

    whole = train(model=partly(), steps=4)[1].losses
    crashed(train, tmp_path, model=partly(), step=3, steps=4)
    stored = load_file(list_checkpoints(tmp_path)[0] / "model.safetensors")
    assert {name.rsplit(".", 2)[0] for name in stored} == {"model.layers.0.mlp"}
    with pytest.raises(UserError, match=r"the frozen weights' digest is .* in the checkpoint"):
        train(Checkpoints(tmp_path), model=partly(seed=1), steps=4)
    assert train(Checkpoints(tmp_path), model=partly(), steps=4)[1].losses == whole[2:]


def test_weights_that_are_not_finite_are_not_saved(train, tmp_path):
    class Break(Callback):
        def on_step(self, run, record):
            with torch.no_grad():
                run.model.model.norm.weight[0] = float("inf")

    _, recorder = train(Break(), Checkpoints(tmp_path, every=0.0), steps=1)
    assert names(tmp_path) == ["step-00000000"]
    assert "not finite" in recorder.events[0]["reason"]


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a byte of the weights": lambda path: flip_a_byte(path / "model.safetensors"),
    "optimizer cut off": lambda path: os.truncate(path / "optimizer.safetensors", 100),
    "state cut off": lambda path: os.truncate(path / "state.json", 100),
    "weights missing": lambda path: (path / "model.safetensors").unlink(),
    "state of another kind": lambda path: (path / "state.json").write_text("[]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(train, tmp_path, kind):
    whole = train(steps=8)[1].losses
    crashed(train, tmp_path, step=6, steps=8)
    newest, before, *_ = list_checkpoints(tmp_path)
    DAMAGE[kind](newest)
    _, recorder = train(Checkpoints(tmp_path), steps=8)
    assert recorder.events[0]["event"] == "warning"
    assert newest.name in recorder.events[0]["reason"]
    assert f"goes on from step {int(before.name[5:])}" in recorder.events[0]["reason"]
    assert recorder.losses == whole[4:]


def test_a_checkpoint_of_another_model_is_refused_with_the_difference(train, tiny_model, tmp_path):
    crashed(train, tmp_path)
    with pytest.raises(UserError, match=r"is \[96, 32\] in the checkpoint and \[64, 32\] here"):
        train(Checkpoints(tmp_path), model=tiny_model(intermediate_size=64))
    with pytest.raises(UserError, match=r"layers\.2\..* is absent in the checkpoint"):
        train(Checkpoints(tmp_path), model=tiny_model(num_hidden_layers=3))


def test_a_difference_that_no_shape_shows_is_found_by_the_identity(train, tmp_path):
    train(Checkpoints(tmp_path, identity={"model": {"rope_theta": 1e4, "head_dim": 16}}), steps=2)
    with pytest.raises(UserError, match=r"model\.rope_theta is 10000\.0 in the checkpoint and 500000\.0 here"):
        train(Checkpoints(tmp_path, identity={"model": {"rope_theta": 5e5, "head_dim": 16}}), steps=2)


def test_a_checkpoint_of_another_optimizer_is_refused(train, tmp_path):
    crashed(train, tmp_path, optimizer="lion")
    with pytest.raises(UserError, match="optimizer is Lion in the checkpoint and AdamW here"):
        train(Checkpoints(tmp_path))


def test_what_a_kill_left_half_written_is_removed(train, tmp_path):
    half = tmp_path / ".step-00000007.abcd1234.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    train(Checkpoints(tmp_path), steps=2)
    assert not half.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of 1 MiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_a_full_disk_keeps_the_last_checkpoint(train, small_disk):
    class Fill(Callback):
        def on_step(self, run, record):
            if run.step == 2:
                free = os.statvfs(small_disk)
                (small_disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_bsize))

    directory = small_disk / "checkpoints"
    with pytest.raises(VesaliusError, match=r"no space left to write .*step-00000002"):
        train(Fill(), Checkpoints(directory, every=0.0, keep=1), steps=5)
    assert names(directory) == ["step-00000001"]
    (small_disk / "ballast").unlink()
    _, recorder = train(Checkpoints(directory), steps=5)
    assert [record["step"] for record in recorder.steps] == [2, 3, 4, 5]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_no_space_at_any_file_keeps_the_last_checkpoint(train, tmp_path, monkeypatch, file):
    """As on a small disk, where none can be mounted: the writers say what the operating system would."""

    def safetensors_says(tensors, path):
        if path.name != file:
            return save_file(tensors, path)
        raise checkpoint_files.SafetensorError('I/O error: "No space left on device (os error 28)"')

    def python_says(*_, **__):
        raise OSError(28, "No space left on device")

    class Fill(Callback):
        def on_step(self, run, record):
            if run.step == 2 and file.endswith(".safetensors"):
                monkeypatch.setattr(checkpoint_files, "save_file", safetensors_says)
            elif run.step == 2:
                monkeypatch.setattr(Path, "write_text", python_says)

    with pytest.raises(VesaliusError, match="no space left"):
        train(Fill(), Checkpoints(tmp_path, every=0.0, keep=1), steps=5)
    assert names(tmp_path) == ["step-00000001"]
