"""The run directory: made once, resumed on purpose, its records complete."""

import pytest

from vesalius.core.errors import UserError, nearest
from vesalius.core.run_directory import RunDirectory


def test_a_directory_with_files_needs_resume(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty: add --resume"):
        RunDirectory.create(tmp_path)
    assert RunDirectory.create(tmp_path, resume=True).root == tmp_path


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file, expected a directory"):
        RunDirectory.create(tmp_path / "run")


def test_records_are_kept_in_order(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.log(kind="step", step=1, loss=2.5)
    run.log(kind="step", step=2, loss=float("nan"))
    first, second = run.read_metrics()
    assert first == {"kind": "step", "step": 1, "loss": 2.5}
    assert second["loss"] != second["loss"]


def test_a_line_cut_off_by_a_kill_is_left_out_and_not_glued_to_the_next(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.log(step=1)
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.read_metrics() == [{"step": 1}]
    run.keep_metrics(lambda record: True)
    run.log(step=2)
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]


def test_records_after_a_checkpoint_can_be_dropped(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    for step in range(5):
        run.log(step=step)
    run.keep_metrics(lambda record: record["step"] <= 2)
    assert [record["step"] for record in run.read_metrics()] == [0, 1, 2]


def test_results_are_added_to_those_that_are_there(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    assert run.read_evals() == {}
    run.add_evals(a=1, b={"c": 2})
    run.add_evals(b=3)
    assert run.read_evals() == {"a": 1, "b": 3}


def test_the_nearest_name_is_offered_or_all_of_them():
    assert nearest("stpes", ["steps", "tokens"]) == "did you mean 'steps'?"
    assert nearest("xyz", ["steps", "tokens"]) == "known: steps, tokens"
