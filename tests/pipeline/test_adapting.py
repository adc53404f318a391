"""Tuning an adapter by a recipe: what a run keeps, that it goes on after a kill, and that what it wrote opens."""

import pytest
import torch
from safetensors import safe_open
from tiny import called

import vesalius as vs
from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.pipeline.recipe import Recipe, find_recipe
from vesalius.train.callbacks import RunLogger

KINDS = {
    "lora": "lora_r = 4",
    "dora": 'lora_r = 4\nlora_alpha = 8.0\ntarget_modules = ["q_proj", "layers.1.mlp.*"]',
    "ia3": "",
    "bottleneck": 'bottleneck_size = 8\nplacement = "pfeiffer"',
    "prompt": "num_virtual_tokens = 4",
    "prefix": "num_virtual_tokens = 4",
    "freeze": "layers = 1",
}
MERGED = ("lora", "dora", "ia3")


def adapter_recipe(folder, start, texts, kind="lora", steps=6, every=0):
    path = folder / f"{kind}.toml"
    path.write_text(
        f'[model]\nstart = "{start}"\n[data]\nconversations = ["{texts}/chat.jsonl"]\nvalidation_fraction = 0.2\n'
        f'[adapter]\nkind = "{kind}"\n{KINDS[kind]}\n'
        f'[sft]\nsteps = {steps}\nbatch_tokens = 256\ncontext = 64\nlearning_rate = 0.01\nprecision = "float32"\n'
        f"validate_every = 3\ncheckpoint_every = {every}\n"
    )
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_keeps_what_was_learned_and_opens_with_it(tiny_run, tmp_path, kind):
    done = called("run", adapter_recipe(tmp_path, tiny_run, tiny_run.parent / "texts", kind), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "out")
    losses = [record["loss"] for record in run.read_metrics() if record["kind"] == "validation"]
    assert losses[-1] < losses[0]
    ids = list(range(5, 25))
    tuned, base = vs.load(str(run.root)).logits(ids), vs.load(str(tiny_run)).logits(ids)
    assert not torch.equal(tuned, base)
    if kind == "freeze":
        assert not run.adapter.exists()
        return
    assert (run.model / "adapter_config.json").exists() == (kind not in MERGED)
    for opened in (vs.load(str(run.adapter)), vs.load(str(tiny_run), adapter=str(run.root))):
        torch.testing.assert_close(opened.logits(ids), tuned, rtol=0, atol=1e-5)


def test_checkpoints_hold_the_adapter_only(tiny_run, tmp_path):
    done = called("run", adapter_recipe(tmp_path, tiny_run, tiny_run.parent / "texts"), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (newest, *_) = sorted((tmp_path / "out/checkpoints/sft").iterdir(), reverse=True)
    with safe_open(newest / "model.safetensors", "pt") as file:
        assert all(".adapters.default.lora_" in name for name in file.keys())  # noqa: SIM118  # the file is no dict
    trained = RunDirectory(tmp_path / "out").read_evals()["adapter"]["trained_parameters"]
    assert (newest / "model.safetensors").stat().st_size < 4 * trained + 8000


def dies_at_step_4(self, run, record):
    if run.step == 4:
        raise VesaliusError("the power failed")
    self._write(record)


def test_a_run_that_was_killed_ends_with_the_same_adapter(tiny_run, tmp_path):
    texts = tiny_run.parent / "texts"
    recipe = adapter_recipe(tmp_path, tiny_run, texts)
    assert called("run", recipe, "--out", tmp_path / "whole").returncode == 0
    killed = tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunLogger, "on_step", dies_at_step_4)
        assert called("run", recipe, "--out", killed).returncode == 1
    done = called("run", recipe, "--out", killed, "--resume")
    assert done.returncode == 0, done.stderr
    assert any(record["step"] == 4 for record in RunDirectory(killed).read_metrics())
    whole, resumed = (
        (RunDirectory(out).adapter / "adapter_model.safetensors").read_bytes() for out in (tmp_path / "whole", killed)
    )
    assert whole == resumed


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"kind": "ia3", "lora_r": 4}, "lora_r is no setting of ia3, known: feedforward_modules, target_modules"),
        ({"kind": "lora", "lora_r": 0}, "lora_r = 0, expected a rank from 1"),
        ({"kind": "lroa"}, "adapter.kind = 'lroa'"),
        ({"kind": "bottleneck", "hidden_act": "silly"}, "'silly' is no setting of a bottleneck adapter"),
    ],
)
def test_what_does_not_fit_together_is_one_line(adapter, message):
    with pytest.raises(UserError, match=message):
        build_recipe({"model": "runs/a", "data": "a.jsonl", "sft": {"steps": 3}, "adapter": adapter}, Recipe)


def test_an_adapter_needs_a_stage_that_trains_it():
    with pytest.raises(UserError, match=r"\[adapter\] is what a tuning stage trains"):
        build_recipe({"model": "runs/a", "data": "a.jsonl", "adapter": {}}, Recipe)


def test_the_shipped_recipe_takes_a_model_and_data():
    recipe = find_recipe("lora", ["model=runs/a", "data=mine.jsonl", "adapter.lora_r=8"])
    assert recipe.adapter is not None
    assert recipe.adapter.given["lora_r"] == 8
    assert recipe.data.conversations == ["mine.jsonl"]


def test_unknown_layers_end_the_run_and_leave_no_trace(tiny_run, tmp_path):
    recipe = adapter_recipe(tmp_path, tiny_run, tiny_run.parent / "texts")
    done = called("run", recipe, "--set", 'adapter.target_modules=["q_porj"]', "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "no linear layer of the model is called 'q_porj', did you mean 'q_proj'?" in done.stderr
    assert not (tmp_path / "out").exists()
