"""The stage that trains heads: for a model of our own and for a GGUF file, and on which data."""

import pytest
import torch
from tiny import called

from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.hub.open import open_model
from vesalius.infer.speculative.heads import FILE, MultiTokenHeads
from vesalius.pipeline.recipe import Recipe


def heads_recipe(folder, model, data: str) -> str:
    path = folder / "heads.toml"
    path.write_text(
        f'[model]\nstart = "{model}"\n[data]\n{data}\nvalidation_fraction = 0.2\n'
        '[heads]\ncount = 2\nsteps = 6\nbatch_tokens = 256\ncontext = 64\nprecision = "float32"\nvalidate_every = 3\n'
    )
    return str(path)


@pytest.mark.parametrize("kind", ["text", "conversations"])
def test_heads_are_trained_beside_a_model_that_stays_the_same(tiny_run, tmp_path, kind):
    texts = tiny_run.parent / "texts"
    data = f'text = ["{texts}/*.py"]' if kind == "text" else f'conversations = ["{texts}/chat.jsonl"]'
    done = called("run", heads_recipe(tmp_path, tiny_run, data), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "out")
    heads = MultiTokenHeads.load(run.model, 32)
    assert len(heads.layers) == 2
    assert all(bool(parameter.any()) for parameter in heads.parameters())
    before, after = open_model(tiny_run)[0].state_dict(), open_model(run.root)[0].state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    records = [record for record in run.read_metrics() if record["stage"] == "heads"]
    losses = [record["loss"] for record in records if record["kind"] == "validation"]
    assert losses[-1] < losses[0]
    assert {"head_1", "head_2"} <= records[0].keys() | records[1].keys()


def test_heads_of_a_gguf_file_lie_alone(tiny_run, tmp_path):
    assert called("export", tiny_run, tmp_path / "tiny.gguf").returncode == 0
    data = f'conversations = ["{tiny_run.parent}/texts/chat.jsonl"]'
    done = called("run", heads_recipe(tmp_path, tmp_path / "tiny.gguf", data), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out" / "model").iterdir()] == [FILE]
    assert len(MultiTokenHeads.load(tmp_path / "out" / "model", 32).layers) == 2


def test_heads_need_something_to_read():
    with pytest.raises(UserError, match=r"\[heads\] needs data.text or data.conversations"):
        build_recipe({"model": "runs/a", "heads": {"steps": 3}}, Recipe)
