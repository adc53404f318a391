"""The stages that train scoring models: what they leave behind, what they measure, and that a kill costs nothing."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import called

from vesalius.align.scoring.files import open_scoring_model
from vesalius.align.scoring.model import REWARD, STEPS
from vesalius.align.scoring.process_reward import encode_steps, score_steps
from vesalius.align.scoring.reward import score
from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.hub.open import open_model
from vesalius.pipeline.recipe import Recipe, find_recipe
from vesalius.tokenizers.chat import encode_chat

SETTINGS = (
    'steps = 8\nlearning_rate = 3e-3\nbatch_tokens = 512\ncontext = 128\nprecision = "float32"\nvalidate_every = 4\n'
)
SECTIONS = {
    "pairs": f"[reward]\ncentring = 0.01\n{SETTINGS}",
    "scores": f'[reward]\nlearn = "scores"\n{SETTINGS}',
    "steps": f"[prm]\n{SETTINGS}",
}


def rows(kind: str) -> list[dict]:
    made: dict[str, list[dict]] = {
        "pairs": [
            {"prompt": f"What is {i}?", "chosen": f"item {i}", "rejected": "no " * (i % 4 + 1)} for i in range(40)
        ],
        "scores": [{"prompt": f"What is {i}?", "completion": f"item {i}", "score": i % 3} for i in range(40)],
        "steps": [
            {"prompt": f"What is {i}?", "completions": [f"item {i}", "no"], "labels": [True, False]} for i in range(40)
        ],
    }
    return made[kind]


def write_run(folder: Path, kind: str, model: Path, more: str = "") -> Path:
    data = folder / f"{kind}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows(kind)))
    path = folder / f"{kind}.toml"
    path.write_text(
        f'[model]\nstart = "{model}"\n[data]\n{kind} = ["{data}"]\nvalidation_fraction = 0.3\n{SECTIONS[kind]}{more}'
    )
    return path


def records(run: Path, kind: str) -> list[dict]:
    return [record for record in RunDirectory(run).read_metrics() if record["kind"] == kind]


@pytest.fixture(scope="module", params=SECTIONS)
def scoring_run(request: pytest.FixtureRequest, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    done = called("run", write_run(folder, request.param, tiny_run), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return request.param, folder / "run", done.stdout


def test_a_run_leaves_a_model_that_scores(scoring_run):
    kind, path, printed = scoring_run
    model, tokenizer = open_scoring_model(path)
    assert model.labels == (STEPS if kind == "steps" else REWARD)
    prompt = [{"role": "user", "content": "What is 3?"}]
    if kind == "steps":
        found = score_steps(model, encode_steps(tokenizer, prompt, ["item 3", "no"], "\n"))
        assert found.shape == (2,)
    else:
        ids = encode_chat(tokenizer, [*prompt, {"role": "assistant", "content": "item 3"}]).ids
        assert torch.isfinite(score(model, [ids])).all()
    assert "Report:" in printed
    assert "Try it" not in printed


def test_a_run_learns_and_measures_what_was_held_out(scoring_run):
    kind, path, _ = scoring_run
    stage = "prm" if kind == "steps" else "reward"
    steps, validations = records(path, "step"), records(path, "validation")
    assert [record["stage"] for record in steps] == [stage] * 8
    assert validations[-1]["loss"] < steps[0]["loss"]
    evals = RunDirectory(path).read_evals()
    assert evals["finished"]
    results = evals[stage]
    if kind == "pairs":
        assert results["pairs"] > 4
        assert results["accuracy"] > 0.9  # "no" is easy to tell from "item"
        assert sum(results["margins"]["counts"]) == results["pairs"] == sum(b["count"] for b in results["reliability"])
        assert {"accuracy", "margin", "reward"} <= validations[-1].keys()
    elif kind == "scores":
        assert results["answers"] > 4
        assert results["mean_squared_error"] > 0
    else:
        assert (results["steps"], results["majority"]) == (2 * results["solutions"], 0.5)
        assert results["accuracy"] > 0.9


def test_the_report_tells_what_the_model_is_worth(scoring_run):
    kind, path, _ = scoring_run
    page = (path / "report.html").read_text()
    expected = {
        "pairs": "Does it prefer the better answer?",
        "scores": "How near are its scores?",
        "steps": "Does it find the wrong step?",
    }
    assert expected[kind] in page
    assert ("Is it as sure as it may be?" in page) == (kind != "scores")


def test_a_finished_run_resumes_at_once(scoring_run):
    _, path, _ = scoring_run
    before = RunDirectory(path).metrics.read_bytes()
    assert called("run", "--resume", "--out", path).returncode == 0
    assert RunDirectory(path).metrics.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pairs", "steps"])
def test_a_killed_run_resumes_to_the_same_losses(kind: str, tiny_run: Path, tmp_path: Path):
    recipe = write_run(tmp_path, kind, tiny_run, "checkpoint_every = 0\n")
    assert called("run", recipe, "--out", tmp_path / "whole").returncode == 0
    command = [sys.executable, "-m", "vesalius.cli", "run", str(recipe), "--out", str(tmp_path / "run")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    while len(records(tmp_path / "run", "step")) < 3 and child.poll() is None:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert len(records(tmp_path / "run", "step")) < 8
    resumed = called("run", "--resume", "--out", tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    losses = [[record["loss"] for record in records(tmp_path / name, "step")] for name in ("run", "whole")]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(("name", "data"), [("reward", "pairs"), ("prm", "steps")])
def test_a_file_is_what_the_stage_learns_from(name: str, data: str):
    recipe = find_recipe(name, ["model=runs/a", "data=mine.jsonl"])
    assert (
        recipe.data
        == build_recipe({"model": "runs/a", "data": {data: ["mine.jsonl"]}, name: {"steps": 1}}, Recipe).data
    )
    assert recipe.model.start == "runs/a"


def test_scores_instead_of_pairs():
    recipe = find_recipe("reward", ["reward.learn=scores", "data=mine.jsonl"])
    assert recipe.data.scores == ["mine.jsonl"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"reward": {"steps": 1}}, r"\[reward\] needs data.pairs"),
        ({"reward": {"steps": 1, "learn": "scores"}, "data": {"pairs": ["a"]}}, r"\[reward\] needs data.scores"),
        ({"prm": {"steps": 1}}, r"\[prm\] needs data.steps: steps:arithmetic"),
        (
            {"reward": {"steps": 1}, "sft": {"steps": 1}, "data": {"pairs": ["a"], "conversations": ["b"]}},
            r"\[reward\] makes a model that scores and no longer writes: train sft in a run of its own",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_line(sections: dict, message: str):
    with pytest.raises(UserError, match=message):
        build_recipe({"model": "runs/a"} | sections, Recipe)


def test_a_reward_model_chooses_among_answers_of_the_model_that_it_was(tiny_run: Path, tmp_path: Path):
    """And a run that was stopped after it had learned draws the same answers again."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"prompt": f"What is {i}?", "answer": i % 10}) + "\n" for i in range(40)))
    recipe = write_run(tmp_path, "pairs", tiny_run, "best_of = 6\nanswered_tasks = 5\nanswer_tokens = 8\n")
    recipe.write_text(recipe.read_text().replace("[data]", f'[data]\ntasks = ["{tasks}"]'))
    done = called("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = RunDirectory(tmp_path / "run")
    results = run.read_evals()["reward"]
    points = results["overoptimisation"]["points"]
    assert [point["label"] for point in points] == ["n = 1", "n = 2", "n = 4"]
    assert points[0]["proxy"] < points[1]["proxy"] < points[2]["proxy"]
    assert "Of n answers the one that the reward model likes best" in run.report.read_text()
    run.add_evals(reward={})
    assert called("run", "--resume", "--out", tmp_path / "run").returncode == 0
    assert run.read_evals()["reward"] == results


@pytest.mark.parametrize("kind", ["pairs", "steps"])
def test_an_adapter_trains_in_place_of_the_model_and_is_merged_into_what_is_saved(
    kind: str, tiny_run: Path, tmp_path: Path
):
    recipe = write_run(tmp_path, kind, tiny_run, '[adapter]\nkind = "lora"\nlora_r = 4\n')
    done = called("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    trained, _ = open_scoring_model(tmp_path / "run")
    before = open_model(tiny_run)[0].model.state_dict()
    changed = {name for name, tensor in trained.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith("_proj.weight") for name in changed)
    assert not (tmp_path / "run" / "adapter").exists()
    assert records(tmp_path / "run", "validation")[-1]["loss"] < records(tmp_path / "run", "step")[0]["loss"]


def test_an_adapter_that_cannot_be_merged_is_refused():
    sections = {"reward": {"steps": 1}, "data": {"pairs": ["a"]}, "adapter": {"kind": "prefix"}}
    with pytest.raises(UserError, match=r"\[reward\] saves its model with the adapter merged, and prefix is no change"):
        build_recipe({"model": "runs/a"} | sections, Recipe)


def test_same_answers_are_told_and_left_out(tiny_run: Path, tmp_path: Path):
    recipe = write_run(tmp_path, "pairs", tiny_run)
    data = tmp_path / "pairs.jsonl"
    data.write_text(data.read_text() + json.dumps({"prompt": "What is 1?", "chosen": "a", "rejected": "a"}) + "\n")
    done = called("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "are chosen equal to rejected and left out (first: " in done.stdout + done.stderr
