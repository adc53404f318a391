"""Runs a recipe in a run directory: every stage in order, the report whatever happens."""

import contextlib
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vesalius.align.making.constitution import load_constitution
from vesalius.align.scoring.files import scoring_facts
from vesalius.core.errors import Interrupted, UserError
from vesalius.core.files import atomic_write
from vesalius.core.hardware import hardware_line
from vesalius.core.recipes import build_recipe, dump_recipe
from vesalius.core.run_directory import RunDirectory
from vesalius.data.conversations import read_conversations
from vesalius.data.documents import read_documents
from vesalius.data.preferences import read_pairs, read_ratings, read_scores
from vesalius.data.prompts import read_prompts
from vesalius.data.solutions import read_solutions
from vesalius.data.tasks import read_tasks
from vesalius.hub.open import model_path
from vesalius.pipeline.life import Display, Life
from vesalius.pipeline.recipe import Recipe
from vesalius.pipeline.stages import STAGES
from vesalius.train.report import write_report


def run_recipe(recipe: Recipe, out: Path | str, display: Display, *, resume: bool = False) -> RunDirectory:
    """Takes a model through the stages of `recipe`; with `resume` it goes on where an earlier try stopped.

    UserError where the directory is in use or was made by another recipe. Interrupted where a person stopped the run:
    like every error after the first stage began, it leaves checkpoints and a report of what there is.
    """
    _check_names(recipe)
    run = RunDirectory.create(out, resume=resume)
    fresh = not run.recipe.exists()
    _claim(run, recipe)
    life = Life(recipe, run, display)
    run.add_evals(hardware=hardware_line(life.device), finished=False)
    try:
        for stage in STAGES:
            stage(life)
        run.add_evals(finished=True)
    except KeyboardInterrupt:
        raise Interrupted("stopped; what was finished before is kept") from None
    except UserError:
        if fresh and not run.checkpoints.exists() and not run.made.exists():  # wrong input, nothing yet: leave no trace
            _withdraw(run)
        raise
    finally:
        if run.recipe.exists():
            write_report(run)
    return run


READERS: dict[str, Callable[[Sequence[str]], object]] = {
    "text": read_documents,
    "conversations": read_conversations,
    "pairs": read_pairs,
    "ratings": read_ratings,
    "scores": read_scores,
    "steps": read_solutions,
    "tasks": read_tasks,
    "prompts": read_prompts,
}
"""Who opens each kind of data; all of them look for the names at once and read later."""


def _check_names(recipe: Recipe) -> None:
    """UserError where a file or a model that the recipe names does not exist: now, not after minutes of training."""
    for name, read in READERS.items():
        if specs := getattr(recipe.data, name):
            read(specs)
    if recipe.sft is not None and recipe.sft.replay:
        read_documents(recipe.sft.replay_text)
    if recipe.panel is not None:
        read_documents(recipe.panel.text)
        read_tasks(recipe.panel.tasks)
    if recipe.constitution is not None:
        load_constitution(recipe.constitution.file)
    if recipe.distill is not None and recipe.distill.teacher is not None:
        model_path(recipe.distill.teacher)
    for policy in (recipe.grpo, recipe.ppo):
        if policy is not None and policy.rewards.model is not None:
            scoring_facts(policy.rewards.model)
    if recipe.model.start is not None:
        model_path(recipe.model.start)


def _withdraw(run: RunDirectory) -> None:
    """Removes what a run wrote before it found that its input is wrong, and the directory if nothing else is in it."""
    for path in (run.recipe, run.metrics, run.evals):
        path.unlink(missing_ok=True)
    for folder in (run.tokenizer, run.data):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it
        run.root.rmdir()


def recipe_of(run: RunDirectory) -> Recipe:
    """The recipe that a run directory was made by. UserError where it holds none."""
    if not run.recipe.exists():
        raise UserError(f"{run.root} has no recipe.toml, so there is nothing to resume: name a recipe")
    return build_recipe(tomllib.loads(run.recipe.read_text("utf-8")), Recipe, where=str(run.recipe))


def _claim(run: RunDirectory, recipe: Recipe) -> None:
    """Writes the resolved recipe, or checks that the one that is there says the same."""
    text = dump_recipe(recipe)
    if run.recipe.exists():
        difference = _first_difference(tomllib.loads(run.recipe.read_text("utf-8")), tomllib.loads(text))
        if difference:
            raise UserError(
                f"{run.root} was made by another recipe: {difference}; resume it as it is, or choose another --out"
            )
    else:
        atomic_write(run.recipe, text)


def _first_difference(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> str:
    """The first setting that differs, in words; "" where none does.

    >>> _first_difference({"train": {"steps": 5}}, {"train": {"steps": 6}})
    'train.steps is 5 there and 6 here'
    """
    for name in [*there, *(name for name in here if name not in there)]:
        theirs, ours = there.get(name), here.get(name)
        if isinstance(theirs, dict) and isinstance(ours, dict):
            if difference := _first_difference(theirs, ours, f"{prefix}{name}."):
                return difference
        elif theirs != ours:
            return f"{prefix}{name} is {theirs} there and {ours} here"
    return ""
