"""The setting of threads: where it is read from and where it is written to."""

import os

import pytest

from vesalius.cli import _without_threads
from vesalius.core.errors import UserError
from vesalius.core.threads import READ, VARIABLE, set_threads, usable_processors


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (VARIABLE, *READ):
        monkeypatch.setenv(name, "unset")
        monkeypatch.delenv(name)


def test_nothing_said_changes_nothing():
    set_threads(None)
    assert not any(name in os.environ for name in READ)


def test_the_flag_wins_over_the_variable(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1000000")
    set_threads("1")
    assert [os.environ[name] for name in READ] == ["1"] * 3


def test_the_variable_is_taken_and_named_where_it_is_wrong(monkeypatch):
    monkeypatch.setenv(VARIABLE, str(usable_processors()))
    set_threads(None)
    assert os.environ["OMP_NUM_THREADS"] == str(usable_processors())
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(UserError, match=r"VESALIUS_THREADS is 'many', expected a whole number"):
        set_threads(None)


@pytest.mark.parametrize(
    ("arguments", "rest", "threads"),
    [
        (["chat", "m"], ["chat", "m"], None),
        (["--threads", "2", "chat"], ["chat"], "2"),
        (["chat", "--threads=2", "m", "--threads", "3"], ["chat", "m"], "3"),
        (["chat", "--threads"], ["chat"], ""),
        (["generate", "m", "--", "--threads"], ["generate", "m", "--", "--threads"], None),
    ],
)
def test_the_flag_is_taken_out_of_the_arguments(arguments, rest, threads):
    assert _without_threads(arguments) == (rest, threads)
