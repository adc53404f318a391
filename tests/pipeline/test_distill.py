"""The stage that distils: what it learns, measures and leaves behind, its teachers, and that a kill costs nothing."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from align.tiny_models import make_tokenizer, model_for
from pipeline.killing import losses, losses_after_a_kill
from tiny import called

from vesalius.core.errors import UserError
from vesalius.core.recipes import build_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.hub.directory import save_model
from vesalius.hub.open import open_model
from vesalius.pipeline.recipe import Recipe, find_recipe

ROWS = [{"prompt": f"What is {i}?", "completion": f"It is item {i}."} for i in range(60)]
SETTINGS = """learning_rate = 3e-3
batch_tokens = 256
context = 64
precision = "float32"
validate_every = 6
"""
EVAL = """[eval]
choice_questions = 0
answers = 9
written_answers = 0
questions = []
"""
KINDS = {
    "beside": 'divergence = "jsd"',
    "disk": "top_k = 8",
    "own": "on_policy = 0.6\nprompts = 4\nmax_tokens = 6",
    "hidden": "hidden_weight = 0.5",
}


def write_run(folder: Path, model: Path, kind: str, *, steps: int = 12, teacher: str = "", more: str = "") -> Path:
    """A student of one of the teacher's two layers, unless `more` says otherwise."""
    folder.mkdir(exist_ok=True)
    data = folder / "chat.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    path = folder / f"{kind}.toml"
    taught = teacher or f'teacher = "{model}"'
    section = f"[distill]\nsteps = {steps}\n{taught}\nkeep_layers = 1\n{SETTINGS}{KINDS[kind]}\n"
    path.write_text(
        f'model = "{model}"\n[data]\nconversations = ["{data}"]\nvalidation_fraction = 0.3\n{section}{more}{EVAL}'
    )
    return path


@pytest.fixture(scope="module")
def run_of(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The finished run of a kind, made once."""

    @functools.cache
    def make(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        done = called("run", write_run(folder, tiny_run, kind), "--out", folder / "run")
        assert done.returncode == 0, done.stderr
        return folder / "run"

    return make


@pytest.fixture(params=KINDS)
def distilled(request: pytest.FixtureRequest, run_of: Callable[[str], Path]) -> Path:
    return run_of(request.param)


def test_the_student_comes_nearer_to_its_teacher(distilled: Path) -> None:
    results = RunDirectory(distilled).read_evals()
    found = results["distill"]
    assert found["after"]["loss"] < 0.8 * found["before"]["loss"]
    assert found["after"]["agreement"] > found["before"]["agreement"]
    assert found["parameters"] < found["teacher"]["parameters"]
    assert results["answers"]["after"]["perplexity"] < results["answers"]["before"]["perplexity"]
    assert len(losses(distilled)) == 12


def test_the_model_that_is_left_is_the_student(distilled: Path, tiny_run: Path) -> None:
    (student, _), (teacher, _) = open_model(distilled), open_model(tiny_run)
    assert (student.config.num_hidden_layers, teacher.config.num_hidden_layers) == (1, 2)
    assert "How near is it to its teacher?" in (distilled / "report.html").read_text("utf-8")


def test_a_finished_run_resumes_at_once(distilled: Path) -> None:
    before = RunDirectory(distilled).metrics.read_bytes(), RunDirectory(distilled).read_evals()["distill"]
    done = called("run", "--out", distilled, "--resume")
    assert done.returncode == 0, done.stderr
    assert (RunDirectory(distilled).metrics.read_bytes(), RunDirectory(distilled).read_evals()["distill"]) == before


def test_what_a_teacher_said_teaches_again_without_it(
    run_of: Callable[[str], Path], tiny_run: Path, tmp_path: Path
) -> None:
    """Bit for bit the losses of the run that wrote it."""
    first = run_of("disk")
    again = write_run(first.parent, tiny_run, "disk", teacher=f'stored = "{first}/data/teacher"')
    assert called("run", again, "--out", tmp_path / "again").returncode == 0
    assert losses(tmp_path / "again") == losses(first)
    assert "agreement" not in RunDirectory(tmp_path / "again").read_evals()["distill"]["after"]


def test_the_stored_words_of_other_settings_are_one_line(
    run_of: Callable[[str], Path], tiny_run: Path, tmp_path: Path
) -> None:
    first = run_of("disk")
    stored = f'temperature = 2.0\nstored = "{first}/data/teacher"'
    done = called("run", write_run(first.parent, tiny_run, "disk", teacher=stored), "--out", tmp_path / "again")
    assert done.returncode == 2
    assert "was made for temperature 1.0, got 2.0" in done.stderr


def test_a_teacher_with_another_tokenizer_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    save_model(tmp_path / "other", model_for(tokenizer), tokenizer)
    path = write_run(tmp_path, tiny_run, "beside", teacher=f'teacher = "{tmp_path}/other"')
    done = called("run", path, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "other has another tokenizer than the student" in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_is_not_there_is_told_before_anything_is_done(tiny_run: Path, tmp_path: Path) -> None:
    path = write_run(tmp_path, tiny_run, "beside", teacher=f'teacher = "{tmp_path}/nobody"')
    done = called("run", path, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "nobody" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_adapter_learns_from_a_teacher_too(tiny_run: Path, tmp_path: Path) -> None:
    path = write_run(tmp_path, tiny_run, "beside", steps=3, more='[adapter]\nkind = "lora"\n')
    done = called("run", path, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "adapter").exists()


def test_the_shipped_recipe_takes_a_model_and_data_by_their_short_names() -> None:
    recipe = find_recipe("distill", ["model=somewhere", "data=mine.jsonl"])
    assert (recipe.model.start, recipe.data.conversations) == ("somewhere", ["mine.jsonl"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "give teacher, a model to learn from, or stored"),
        ({"teacher": "a", "stored": "b", "top_k": 3}, "and not both"),
        ({"stored": "b"}, "stored needs top_k"),
        ({"teacher": "a", "top_k": 3, "on_policy": 0.5}, "need the teacher beside the student"),
        ({"teacher": "a", "on_policy": 0.5, "sft_weight": 0.1}, "its own answers"),
        ({"teacher": "a", "divergence": "forward"}, "did you mean 'forward_kl'"),
        ({"teacher": "a", "label_smoothing": 0.1}, "label_smoothing: that is of next-token training"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(section: dict[str, Any], message: str) -> None:
    values = {"model": "somewhere", "data": "a.jsonl", "distill": {"steps": 1, **section}}
    with pytest.raises(UserError, match=message):
        build_recipe(values, Recipe, where="here")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "own", "hidden"])
def test_a_killed_run_resumes_to_the_same_losses(kind: str, tiny_run: Path, tmp_path: Path) -> None:
    recipe = write_run(tmp_path, tiny_run, kind, steps=40, more="checkpoint_every = 0\n")
    recipe.write_text(recipe.read_text().replace("validate_every = 6", "validate_every = 100"))
    assert called("run", recipe, "--out", tmp_path / "whole").returncode == 0
    assert losses_after_a_kill(recipe, tmp_path / "cut", steps=40) == losses(tmp_path / "whole")
