"""Rows appear as they are done, and a killed run goes on to the same rows."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vesalius.align.making.journal import work_through, write_kept
from vesalius.core.errors import UserError


@dataclass(frozen=True)
class Unit:
    name: str


UNITS = [Unit(f"unit {i}") for i in range(7)]


def numbered(units):
    """Rows that tell which batch they were made in."""
    return [{"value": f"{unit.name} of {units[0].name}", "kept": True} for unit in units]


def whole(folder: Path) -> bytes:
    path = folder / "whole.jsonl"
    work_through(path, UNITS, numbered, together=3)
    return path.read_bytes()


def test_each_unit_has_its_row_in_order(tmp_path):
    seen: list[int] = []
    rows = work_through(tmp_path / "rows.jsonl", UNITS, numbered, together=3, advance=seen.append)
    assert [row["name"] for row in rows] == [unit.name for unit in UNITS]
    assert rows[4]["value"] == "unit 4 of unit 3"
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    assert seen == [0, 3, 6, 7]


def test_cut_off_at_any_byte_it_goes_on_to_the_same_file(tmp_path):
    expected, path = whole(tmp_path), tmp_path / "cut.jsonl"
    for length in range(len(expected) + 1):
        path.write_bytes(expected[:length])
        work_through(path, UNITS, numbered, together=3)
        assert path.read_bytes() == expected


def test_what_is_done_is_not_done_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole_rows = work_through(path, UNITS, numbered, together=3)
    assert work_through(path, UNITS, lambda units: pytest.fail("nothing is left"), together=3) == whole_rows


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_journal import UNITS, numbered, work_through
from pathlib import Path
calls = 0
def work(units):
    global calls
    calls += 1
    if calls == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return numbered(units)
work_through(Path(sys.argv[1]), UNITS, work, together=3)
"""


def test_killed_in_the_middle_it_goes_on_to_the_same_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    command = [sys.executable, "-c", KILLED, path, Path(__file__).parent]
    assert subprocess.run(command, check=False).returncode == -9
    assert path.read_bytes().count(b"\n") == 3
    work_through(path, UNITS, numbered, together=3)
    assert path.read_bytes() == whole(tmp_path)


def test_rows_of_other_units_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    work_through(path, UNITS, numbered, together=3)
    with pytest.raises(UserError, match="has a row for 'unit 0' where 'other' is to come"):
        work_through(path, [Unit("other")], numbered, together=3)


def test_what_is_kept_is_a_file_of_its_own(tmp_path):
    assert write_kept(tmp_path / "kept.jsonl", [{"a": 1, "kept": True}, {"a": 2, "kept": False}]) == 1
    assert json.loads((tmp_path / "kept.jsonl").read_text()) == {"a": 1, "kept": True}
