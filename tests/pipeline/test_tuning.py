"""Tuning on conversations as a run does it: sources with shares, noise, what is left out, and how it answers now."""

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline.killing import losses, losses_after_a_kill
from tiny import called

from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.pipeline.recipe import Recipe

SECTION = """[sft]
steps = {steps}
learning_rate = 3e-3
batch_tokens = 256
context = 64
precision = "float32"
neftune_alpha = {alpha}
checkpoint_every = 0
"""
EVAL = """[eval]
choice_questions = 0
answers = 9
written_answers = 3
answer_tokens = 8
questions = []
"""
LONG = [{"prompt": "Why?", "completion": "because " * 64}] * 3


def rows(first: int, count: int) -> list[dict[str, str]]:
    return [{"prompt": f"What is {i}?", "completion": f"It is item {i}."} for i in range(first, first + count)]


def write_run(folder: Path, model: Path, *, steps: int, alpha: float = 5.0, extra: str = "") -> Path:
    """Two sources, of which the smaller one has three quarters of the tokens."""
    folder.mkdir(exist_ok=True)
    for name, found in (("few", rows(0, 20)), ("many", rows(100, 60) + LONG)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    path, sources = folder / "sft.toml", [f"{folder}/{name}.jsonl" for name in ("few", "many")]
    data = f"[data]\nconversations = {sources}\nweights = [3, 1]\nvalidation_fraction = 0.2\n"
    path.write_text(f'model = "{model}"\n{data}{SECTION.format(steps=steps, alpha=alpha)}{extra}')
    return path


@pytest.fixture(scope="module")
def tuned(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    done = called("run", write_run(folder, tiny_run, steps=20, extra=EVAL), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    assert "are longer than 64 tokens and left out (first:" in done.stdout + done.stderr
    return folder / "run"


def test_held_out_answers_become_likelier(tuned: Path) -> None:
    answers = RunDirectory(tuned).read_evals()["answers"]
    assert answers["after"]["perplexity"] < answers["before"]["perplexity"]
    for found in answers.values():
        assert 0 < found["conversations"] <= 9
        assert 0 < found["written"]["answers"] <= 3


def test_what_is_left_out_is_kept_by_file_and_line(tuned: Path) -> None:
    told = RunDirectory(tuned).read_evals()["left_out"]["sft"]["reasons"]["longer than 64 tokens"]
    places = [name.rpartition("/")[2] for name in told["names"]]
    assert told["count"] == len(places) > 0
    assert set(places) <= {"many.jsonl:61", "many.jsonl:62", "many.jsonl:63"}
    assert places[0] in (tuned / "report.html").read_text("utf-8")


def test_sources_are_kept_with_their_shares(tuned: Path) -> None:
    few, many = RunDirectory(tuned).read_evals()["learned_from"]["sft"]
    assert (few["share"], many["share"]) == (0.75, 0.25)
    assert few["conversations"] < many["conversations"]


def test_noise_changes_what_is_learned(tuned: Path, tiny_run: Path, tmp_path: Path) -> None:
    quiet = write_run(tmp_path, tiny_run, steps=1, alpha=0.0)
    assert called("run", quiet, "--out", tmp_path / "run").returncode == 0
    assert losses(tmp_path / "run")[0] != losses(tuned)[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"conversations": ["a", "b"], "weights": [1.0]}, "got 1 weights for 2 names in conversations"),
        ({"conversations": ["a", "a"]}, "names the same data twice"),
        ({"conversations": ["a"], "weights": [0.0]}, "greater than 0"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_recipe({"model": "somewhere", "data": data, "sft": {"steps": 1}}, Recipe, where="here")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_noise_and_the_same_mixture(tiny_run: Path, tmp_path: Path) -> None:
    recipe = write_run(tmp_path, tiny_run, steps=40)
    assert called("run", recipe, "--out", tmp_path / "whole").returncode == 0
    assert losses_after_a_kill(recipe, tmp_path / "cut", steps=40) == losses(tmp_path / "whole")
