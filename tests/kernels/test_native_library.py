"""The native library: built once, shared by processes, absent without a compiler, and on torch's own threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vesalius.kernels.native import library
from vesalius.kernels.native.interface import FORMAT_NUMBERS, ISAS, available, available_isas, isa_name
from vesalius.kernels.packing import TILE_BYTES

needs_native = pytest.mark.skipif(not available(), reason="no C++ compiler on this machine")


@pytest.fixture
def fresh(monkeypatch):
    """`native_library` without the memory of earlier calls."""
    monkeypatch.delenv("VESALIUS_NATIVE", raising=False)
    return library.native_library.__wrapped__


def test_without_a_compiler_there_is_none_and_one_line_says_why(fresh, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert fresh() is None
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "no C++ compiler (no-such-compiler)" in told
    assert "torch paths are used" in told


def test_a_compiler_that_fails_is_told_too(fresh, monkeypatch, capsys, tmp_path):
    broken = tmp_path / "broken-cxx"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && echo broken 1.0 && exit\necho 'x.cpp: error: no' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("VESALIUS_CACHE", str(tmp_path / "cache"))
    assert fresh() is None
    assert "broken-cxx failed: x.cpp: error: no" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("*.so*"))


def test_it_can_be_switched_off_silently(fresh, monkeypatch, capsys):
    monkeypatch.setenv("VESALIUS_NATIVE", "off")
    assert fresh() is None
    assert capsys.readouterr().err == ""


@needs_native
def test_a_library_that_is_there_is_not_built_again(monkeypatch, tmp_path):
    compiler = library.find_compiler()
    there = tmp_path / f"vesalius-{library.fingerprint(compiler)}.so"
    there.touch()
    monkeypatch.setattr(library, "_compile", lambda *_: pytest.fail("compiled again"))
    assert library.build(tmp_path) == there


def test_after_a_build_only_the_newest_libraries_are_left(monkeypatch, tmp_path):
    for age in range(6):
        old = tmp_path / f"vesalius-{age}.so"
        old.touch()
        os.utime(old, (1000 - age, 1000 - age))
    (tmp_path / "other.so").touch()
    monkeypatch.setattr(library, "find_compiler", lambda: "cxx")
    monkeypatch.setattr(library, "fingerprint", lambda _: "new")
    monkeypatch.setattr(library, "_compile", lambda _, path: path.touch())
    assert library.build(tmp_path).exists()
    left = {path.name for path in tmp_path.glob("*.so")}
    assert left == {"other.so", "vesalius-new.so", "vesalius-0.so", "vesalius-1.so", "vesalius-2.so"}


def test_an_old_library_that_cannot_be_removed_stays(monkeypatch, tmp_path):
    for age in range(6):
        (tmp_path / f"vesalius-{age}.so").mkdir()  # a directory is what even root cannot unlink
    monkeypatch.setattr(library, "find_compiler", lambda: "cxx")
    monkeypatch.setattr(library, "fingerprint", lambda _: "new")
    monkeypatch.setattr(library, "_compile", lambda _, path: path.touch())
    assert library.build(tmp_path).exists()
    assert len(list(tmp_path.glob("*.so"))) == 7


@needs_native
def test_another_source_flag_or_cpu_is_another_library(monkeypatch, tmp_path):
    compiler = library.find_compiler()
    names = {library.fingerprint(compiler)}
    with monkeypatch.context() as patch:
        patch.setattr(library, "FLAGS", (*library.FLAGS, "-g"))
        names.add(library.fingerprint(compiler))
    with monkeypatch.context() as patch:
        patch.setattr(library, "_cpu", lambda: "another")
        names.add(library.fingerprint(compiler))
    with monkeypatch.context() as patch:
        patch.setattr(library, "FOLDER", tmp_path)
        names.add(library.fingerprint(compiler))
        (tmp_path / "a.cpp").write_text("int a;")
        names.add(library.fingerprint(compiler))
    assert len(names) == 5


@pytest.mark.slow
@needs_native
def test_two_processes_at_once_build_one_library(tmp_path):
    code = (
        f"from pathlib import Path; from vesalius.kernels.native.library import build; build(Path({str(tmp_path)!r}))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".so"]


@pytest.mark.slow
@needs_native
def test_the_environment_chooses_the_instruction_set():
    code = "from vesalius.kernels.native.interface import isa_name; print(isa_name())"
    for name in available_isas():
        environment = {**os.environ, "VESALIUS_ISA": name}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == name


@needs_native
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_no_second_openmp_runtime_is_loaded():
    torch.ones(8) @ torch.ones(8)
    library.native_library()
    maps = Path("/proc/self/maps").read_text()
    ours = Path(torch.__file__).parent / "lib"
    loaded = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line or "libomp" in line}
    bundled = {str(path) for path in ours.glob("libgomp*")}
    assert loaded & bundled or not bundled
    linked = subprocess.run(["ldd", library.native_library()._name], capture_output=True, text=True, check=True).stdout
    assert sum("omp" in line for line in linked.splitlines()) == 1
    assert any(path in linked for path in loaded)


@needs_native
def test_the_best_kernels_are_among_the_available():
    assert isa_name() in available_isas()
    assert "portable" in available_isas()
    assert isa_name(99) is None


def test_numbers_and_names_agree_with_the_c_side():
    header = (library.FOLDER / "quantised.h").read_text()
    formats = header.split("enum Format : int32_t {")[1].split("}")[0].replace(" ", "").lower().split(",")
    isas = header.split("enum Isa : int32_t {")[1].split("}")[0].replace(" ", "").lower().split(",")
    assert formats[:-1] == list(FORMAT_NUMBERS) == list(TILE_BYTES)
    assert isas[1:-1] == list(ISAS)
    assert list(FORMAT_NUMBERS.values()) == list(range(len(FORMAT_NUMBERS)))
    assert list(ISAS.values()) == list(range(1, len(ISAS) + 1))
