"""The stages grpo and ppo: what they learn, measure and leave behind, and that a kill costs nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import called

from vesalius.align.scoring.files import save_scoring_model
from vesalius.align.scoring.model import ScoringModel
from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.hub.open import open_model
from vesalius.pipeline.policy import grpo_objective, ppo_objective
from vesalius.pipeline.recipe import Recipe, find_recipe
from vesalius.pipeline.recipe_sections.policy import GrpoSection, PpoSection

SETTINGS = """steps = 6
learning_rate = 3e-3
entropy_weight = 0.1
prompts = 4
max_tokens = 8
context = 96
precision = "float32"
validate_every = 3
measured_tasks = 5
"""
SECTIONS = {
    "grpo": f"[grpo]\ngroup = 4\n{SETTINGS}",
    "rloo": f'[grpo]\nvariant = "rloo"\ngroup = 4\nminibatches = 2\nkl_in = "reward"\nkl_weight = 0.05\n{SETTINGS}',
    "ppo": f"[ppo]\ngroup = 2\nkl_weight = 0.05\n{SETTINGS}",
    "hacked": f"[grpo]\ngroup = 4\nrewards.weights = {{ verified = 1.0, model = 2.0 }}\n{SETTINGS}",
    "lora": f"[adapter]\nlora_r = 4\n[grpo]\ngroup = 4\n{SETTINGS}",
}


def write_run(folder: Path, kind: str, model: Path) -> Path:
    folder.mkdir(exist_ok=True)
    data = folder / "tasks.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"What is {i}?", "answer": i}) + "\n" for i in range(40)))
    path = folder / f"{kind}.toml"
    text = f'model = "{model}"\n[data]\ntasks = ["{data}"]\nvalidation_fraction = 0.3\n{SECTIONS[kind]}'
    if kind == "hacked":
        writer, tokenizer = open_model(model)
        save_scoring_model(folder / "reward", ScoringModel.on(writer), tokenizer)
        text += f'rewards.model = "{folder / "reward"}"\n'
    path.write_text(text)
    return path


def records(run: Path, kind: str) -> list[dict]:
    return [record for record in RunDirectory(run).read_metrics() if record["kind"] == kind]


@pytest.fixture(scope="module", params=SECTIONS)
def policy_run(request: pytest.FixtureRequest, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    done = called("run", write_run(folder, request.param, tiny_run), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return request.param, folder / "run"


def test_held_out_tasks_are_measured_before_after_and_in_between(policy_run):
    kind, run = policy_run
    stage = "ppo" if kind == "ppo" else "grpo"
    told = RunDirectory(run).read_evals()[stage]
    assert told["held_out"] == 5
    numbers = {"reward", "sampled_reward", "proxy", "length", "kl"}
    assert told["before"].keys() == told["after"].keys() == numbers | {"diversity"}
    assert told["before"]["diversity"]["texts"] == 5
    assert [record["step"] for record in records(run, "validation")] == [3, 6]
    assert all(numbers <= record.keys() for record in records(run, "validation"))


def test_the_rewards_are_told_by_how_far_the_policy_has_gone(policy_run):
    kind, run = policy_run
    told = RunDirectory(run).read_evals()["ppo" if kind == "ppo" else "grpo"]
    curve = told["overoptimisation"]
    measured = [told["before"], *records(run, "validation")]
    assert [point["label"] for point in curve["points"]] == ["step 0", "step 3", "step 6"]
    for name, key in {"kl": "kl", "proxy": "proxy", "gold": "sampled_reward"}.items():
        assert [point[name] for point in curve["points"]] == [record[key] for record in measured]
    assert curve["points"][0]["kl"] == 0
    assert curve["points"][-1]["kl"] == told["after"]["kl"] > 1e-4
    assert all((point["proxy"] == point["gold"]) == (kind != "hacked") for point in curve["points"])
    page = (run / "report.html").read_text()
    assert "Is the reward still worth what it says?" in page
    assert "Does it still say different things?" in page


def test_each_step_tells_of_its_rollout_and_its_update(policy_run):
    kind, run = policy_run
    steps = records(run, "step")
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    shared = {"reward", "length", "hit_rate", "kl", "entropy", "clip_fraction", "truncated", "equal_groups", "moved"}
    own = {"value_loss", "value_explained"} if kind == "ppo" else set()
    assert all(shared | own <= record.keys() for record in steps)
    group = 2 if kind == "ppo" else 4
    assert steps[0]["hit_rate"] == pytest.approx(1 - 1 / group, abs=1e-9)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-5)


def test_the_policy_alone_is_the_model_that_is_saved(policy_run, tiny_run):
    _, run = policy_run
    before, after = open_model(tiny_run)[0].state_dict(), open_model(run)[0].state_dict()
    assert before.keys() == after.keys()
    assert (run / "report.html").read_text().count("Verified reward of drawn answers") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rloo", "ppo"])
def test_kill_9_resumes_to_the_same_losses(kind, tiny_run, tmp_path):
    """In the middle of rollouts and between the updates of one, whose answers the weights no longer give."""
    recipe = write_run(tmp_path, kind, tiny_run)
    recipe.write_text(recipe.read_text().replace("steps = 6", "steps = 12\ncheckpoint_every = 0"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert called("run", recipe, "--out", whole).returncode == 0
    command = [sys.executable, "-m", "vesalius.cli", "run", str(recipe), "--out", str(killed), "--resume"]
    threads = str(torch.get_num_threads())  # as many as here: sums in another order have other bits
    for lines in (3, 8):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": threads})
        while not ((killed / "metrics.jsonl").exists() and len(records(killed, "step")) >= lines):
            assert child.poll() is None
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert called("run", recipe, "--out", killed, "--resume").returncode == 0
    compared = ("step", "tokens", "loss", "grad_norm", "reward", "kl", "kl_weight")
    told = [[[record[name] for name in compared] for record in records(run, "step")] for run in (whole, killed)]
    assert told[0] == told[1]
    one, other = open_model(whole)[0].state_dict(), open_model(killed)[0].state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_sections_become_the_objectives():
    dapo = grpo_objective(GrpoSection(steps=1, variant="dapo", epsilon_low=0.1, max_tokens=7, entropy_weight=0.01))
    assert (dapo.division, dapo.epsilon_low, dapo.epsilon_high) == ("mean_length", 0.1, 0.28)
    assert (dapo.most_tokens, dapo.entropy_weight) == (7, 0.01)
    ppo = ppo_objective(PpoSection(steps=1, epsilon=0.3, value_clip=None))
    assert (ppo.policy.ratio, ppo.policy.epsilon_high, ppo.value_clip) == ("token", 0.3, None)


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        ("grpo", {"variant": "grop"}, "did you mean 'grpo'"),
        ("grpo", {"group": 1}, "leaves nothing to compare"),
        ("grpo", {"kl_weight": 0.1, "reference": False}, "no reference is kept"),
        ("grpo", {"kl_target": 2.0}, "must not begin at 0"),
        ("grpo", {"importance_cap": 2.0, "temperature": 0.7}, "tells probabilities at 1"),
        ("grpo", {"tool": "calculator"}, "more turns than one go with a tool"),
        ("grpo", {"rewards": {"model": "a"}}, "a reward model needs a weight by"),
        ("ppo", {"rewards": {"weights": {"model": 1.0}}}, "and that name a reward model"),
        ("ppo", {"minibatches": 1000}, "minibatches = 1000 of 128 answers"),
    ],
)
def test_what_does_not_go_together_is_told(section, settings, message):
    with pytest.raises(UserError, match=message):
        build_recipe({"model": "a", "data": "tasks:arithmetic", section: {"steps": 1, **settings}}, Recipe)


def test_a_reward_model_that_is_none_is_told_before_anything_is_computed(tiny_run, tmp_path):
    recipe = write_run(tmp_path, "grpo", tiny_run)
    recipe.write_text(f'{recipe.read_text()}rewards.weights = {{ model = 1.0 }}\nrewards.model = "{tiny_run}"\n')
    done = called("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "which scores nothing: give a model that `vesalius run reward`" in " ".join(done.stderr.split())
    assert not (tmp_path / "run").exists()


def test_a_budget_in_tokens_is_refused():
    with pytest.raises(UserError, match="not known before they are written"):
        build_recipe({"model": "a", "data": "tasks:arithmetic", "grpo": {"tokens": 1000}}, Recipe)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_shipped_recipes_take_a_model_and_tasks(name):
    recipe = find_recipe(name, ["model=some/where", "data=tasks:arithmetic?digits=1"])
    assert recipe.data.tasks == ["tasks:arithmetic?digits=1"]
    assert recipe.model.start == "some/where"


def test_tasks_are_needed():
    with pytest.raises(UserError, match=r"\[grpo\] and \[ppo\] need data.tasks"):
        build_recipe({"model": "a", "grpo": {"steps": 1}}, Recipe)
