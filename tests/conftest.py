"""What tests of all folders share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import vesalius, write_recipe

os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line does: tests share cores with their own children
settings.register_profile("vesalius", deadline=None)  # a busy machine is no failure
settings.load_profile("vesalius")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished tiny run, made by the command line."""
    folder = tmp_path_factory.mktemp("tiny")
    done = vesalius("run", write_recipe(folder), "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"
