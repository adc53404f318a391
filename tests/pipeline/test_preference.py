"""The stages that learn from preferences: what they learn, measure and leave behind, and that a kill costs nothing."""

import json
from pathlib import Path

import pytest
import torch
from pipeline.killing import losses, losses_after_a_kill
from tiny import called

from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.hub.open import open_model
from vesalius.pipeline.recipe import Recipe, find_recipe

SETTINGS = """learning_rate = 3e-3
batch_tokens = 512
context = 128
precision = "float32"
validate_every = 4
sampled = 6
sampled_tokens = 8
"""
SECTIONS = {
    "dpo": f"[dpo]\nsteps = 8\n{SETTINGS}",
    "file": f'[dpo]\nsteps = 8\nreference = "file"\n{SETTINGS}',
    "kto": f"[kto]\nsteps = 8\n{SETTINGS}",
    "lora": f"[adapter]\nlora_r = 4\n[dpo]\nsteps = 8\n{SETTINGS}",
}
PAIRS = [{"prompt": f"What is {i}?", "chosen": f"It is item {i}.", "rejected": "no " * (i % 4 + 1)} for i in range(60)]


def write_run(folder: Path, kind: str, model: Path, section: str = "", rows: list[dict] = PAIRS) -> Path:
    folder.mkdir(exist_ok=True)
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / f"{kind}.toml"
    field = "ratings" if kind == "kto" else "pairs"
    path.write_text(
        f'model = "{model}"\n[data]\n{field} = ["{data}"]\nvalidation_fraction = 0.3\n{section or SECTIONS[kind]}'
    )
    return path


def records(run: Path, kind: str) -> list[dict]:
    return [record for record in RunDirectory(run).read_metrics() if record["kind"] == kind]


@pytest.fixture(scope="module", params=SECTIONS)
def preference_run(request: pytest.FixtureRequest, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    done = called("run", write_run(folder, request.param, tiny_run), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return request.param, folder / "run", done.stdout


def test_a_run_learns_to_prefer_what_was_held_out(preference_run) -> None:
    kind, path, printed = preference_run
    stage = "kto" if kind == "kto" else "dpo"
    steps, validations = records(path, "step"), records(path, "validation")
    assert [record["stage"] for record in steps] == [stage] * 8
    assert validations[-1]["loss"] < validations[0]["loss"]
    results = RunDirectory(path).read_evals()[stage]
    assert results["held_out"] > 8
    assert results["after"]["reward_chosen"] > results["after"]["reward_rejected"]
    if stage == "dpo":
        assert (results["before"]["accuracy"], results["before"]["margin"]) == (0.5, 0.0)
        assert results["after"]["accuracy"] > 0.9
        assert {"accuracy", "margin", "reward_chosen", "reward_rejected"} <= validations[-1].keys() & steps[0].keys()
    assert "vesalius chat" in printed


def test_pairs_are_told_apart_by_which_answer_is_longer(preference_run) -> None:
    """Both kinds together are right as often as all are, but for the pairs of two answers of one length."""
    kind, path, _ = preference_run
    if kind == "kto":
        return
    results = RunDirectory(path).read_evals()["dpo"]
    found = results["length_bias"]
    longer, shorter = (found[name] or 0.0 for name in ("accuracy_longer", "accuracy_shorter"))
    right = found["pairs"] * (found["longer_better"] * longer + (1 - found["longer_better"]) * shorter)
    rest = results["after"]["accuracy"] * results["held_out"] - right
    assert found["pairs"] > 8
    assert -1e-3 < rest < results["held_out"] - found["pairs"] + 1e-3
    assert "Does it like length?" in (path / "report.html").read_text()


def test_the_kl_to_the_reference_is_measured_where_there_is_one(preference_run) -> None:
    kind, path, _ = preference_run
    results = RunDirectory(path).read_evals()["kto" if kind == "kto" else "dpo"]
    if kind == "file":
        assert "kl" not in results
    else:
        assert results["kl"]["answers"] == 6
        assert results["kl"]["kl"] != 0


def test_the_model_that_is_left_opens_and_differs(preference_run, tiny_run: Path) -> None:
    _, path, _ = preference_run
    (model, _), (before, _) = open_model(path), open_model(tiny_run)
    mine, theirs = (one.model.layers[0].mlp.up_proj.weight for one in (model, before))
    assert not torch.equal(mine, theirs)


def test_a_finished_run_resumes_at_once(preference_run) -> None:
    _, path, _ = preference_run
    before = RunDirectory(path).metrics.read_bytes(), RunDirectory(path).read_evals()
    done = called("run", "--out", path, "--resume")
    assert done.returncode == 0, done.stderr
    after = RunDirectory(path).metrics.read_bytes(), RunDirectory(path).read_evals()
    assert after[0] == before[0]
    assert {name: after[1][name] for name in ("dpo", "kto") if name in after[1]} == {
        name: before[1][name] for name in ("dpo", "kto") if name in before[1]
    }


def test_the_reference_from_a_file_trains_the_same(tiny_run: Path, tmp_path: Path) -> None:
    """To 1e-5: its log-probabilities are summed in other batches."""
    losses = []
    for kind in ("dpo", "file"):
        path = tmp_path / kind
        assert called("run", write_run(tmp_path / f"{kind} in", kind, tiny_run), "--out", path).returncode == 0
        losses.append([record["loss"] for record in records(path, "step")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_pairs_that_cannot_be_used_are_told(tiny_run: Path, tmp_path: Path) -> None:
    rows = [*PAIRS, *({"prompt": f"Why {i}?", "chosen": "a", "rejected": "a"} for i in range(9))]
    done = called("run", write_run(tmp_path, "dpo", tiny_run, rows=rows), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "are chosen equal to rejected and left out (first:" in done.stdout + done.stderr


def test_a_broken_row_is_one_line_and_leaves_no_trace(tiny_run: Path, tmp_path: Path) -> None:
    rows = [*PAIRS, {"prompt": "Why?", "chosen": "", "rejected": "a"}]
    done = called("run", write_run(tmp_path, "dpo", tiny_run, rows=rows), "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "pairs.jsonl:61" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_the_shipped_recipe_takes_a_model_and_data_by_their_short_names(name: str) -> None:
    recipe = find_recipe(name, ["model=somewhere", "data=mine.jsonl"])
    assert recipe.model.start == "somewhere"
    assert (recipe.data.pairs, recipe.data.ratings) == ((["mine.jsonl"], []) if name == "dpo" else ([], ["mine.jsonl"]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"dpo": {"steps": 1, "loss": "sigmod"}}, "did you mean 'sigmoid'"),
        ({"dpo": {"steps": 1, "label_smoothing": 0.1}}, "not in the loss sigmoid"),
        ({"dpo": {"steps": 1, "z_loss": 0.1}}, "z_loss: that is of next-token training"),
        ({"kto": {"steps": 1, "label_smoothing": 0.1}}, "not in the losses of KTO"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(section, message: str) -> None:
    data = {"pairs": ["pairs:python"], "ratings": ["pairs:python"]}
    with pytest.raises(UserError, match=message):
        build_recipe({"model": "somewhere", "data": data, **section}, Recipe, where="here")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "kto"])
def test_a_killed_run_resumes_to_the_same_losses(kind: str, tiny_run: Path, tmp_path: Path) -> None:
    section = SECTIONS[kind].replace("steps = 8", "steps = 30") + "checkpoint_every = 0\n"
    recipe = write_run(tmp_path, kind, tiny_run, section)
    assert called("run", recipe, "--out", tmp_path / "whole").returncode == 0
    assert losses_after_a_kill(recipe, tmp_path / "cut", steps=30) == losses(tmp_path / "whole")
