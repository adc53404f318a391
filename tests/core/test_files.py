"""Files are whole or absent."""

import errno
import os
import subprocess
import sys
import time

import pytest

from vesalius.core.errors import VesaliusError
from vesalius.core.files import atomic_path, atomic_write, cache_dir, read_json, remove_scratch, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole(tmp_path):
    atomic_write(tmp_path / "a.txt", "old")
    atomic_write(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    atomic_write(tmp_path / "a.txt", "old")

    def fail():
        with atomic_path(tmp_path / "a.txt") as scratch:
            scratch.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_directory_takes_the_place_of_one_that_has_files(tmp_path):
    for content in ("old", "new"):
        with atomic_path(tmp_path / "model") as scratch:
            scratch.mkdir()
            (scratch / f"{content}.txt").write_text(content)
    assert names(tmp_path) == ["model"]
    assert names(tmp_path / "model") == ["new.txt"]


def test_a_full_disk_is_told_in_one_line_and_the_old_file_stays(tmp_path, monkeypatch):
    atomic_write(tmp_path / "a.txt", "old")

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", no_space)
    with pytest.raises(VesaliusError, match=r"no space left to write .*a\.txt"):
        atomic_write(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_process_killed_while_writing_leaves_the_old_file_and_scratch_that_can_be_removed(tmp_path):
    atomic_write(tmp_path / "a.txt", "old")
    code = (
        "import sys, time; from vesalius.core.files import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'a.txt')!r}) as scratch:\n"
        "    scratch.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"ready\n"
    child.kill()
    child.wait()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(names(tmp_path)) == 2
    remove_scratch(tmp_path)
    assert names(tmp_path) == ["a.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    """One process writes two contents in turn while this one reads."""
    path = tmp_path / "a.json"
    write_json(path, ["x"] * 10)
    code = (
        "from vesalius.core.files import write_json\n"
        f"for i in range(300): write_json({str(path)!r}, ['x' * (1 + 5000 * (i % 2))] * 10)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        assert len(read_json(path)) == 10
    assert child.wait(timeout=60) == 0


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(VesaliusError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_the_cache_directory_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path / "cache"))
    assert cache_dir() == tmp_path / "cache"
    assert cache_dir().is_dir()
