"""`kill -9` at any moment: the resumed run has the losses of an undisturbed one, bit for bit, each step once."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killable_run.py")


def losses(work, budget, kills):
    work.mkdir()
    command = [sys.executable, PROGRAM, work, budget, *map(str, kills)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"step"}
    return [(record["step"], record["tokens"], record["loss"], record["lr"], record["grad_norm"]) for record in records]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Both budgets are of the same length, so one run serves them."""
    return losses(tmp_path_factory.mktemp("undisturbed") / "work", "steps", [])


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["steps", "tokens"])
def test_a_run_that_is_killed_three_times_equals_one_that_is_not(tmp_path, undisturbed, budget):
    kills = sorted(random.Random(budget).sample(range(1, 39), 3))
    assert losses(tmp_path / "killed", budget, kills) == undisturbed
