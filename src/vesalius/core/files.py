"""Files that are whole or absent: write beside, flush to the disk, rename (DESIGN, "Robust by habit").

A reader, or a resumed run, never sees half a file. When the disk is full the old file is still there and the error says
so.
"""

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vesalius.core.errors import VesaliusError


def cache_dir() -> Path:
    """Where downloads and compiled code are kept: $VESALIUS_CACHE, else ~/.cache/vesalius. Made if missing."""
    root = (
        os.environ.get("VESALIUS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vesalius"
    )
    path = Path(root).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a scratch path beside `path` for a file or a directory; on success it takes the place of `path`, else it
    is gone.

    VesaliusError where the disk is full; what stood at `path` before is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with disk_full_is_told(path):
            yield scratch
            _flush(scratch)
            _replace(scratch, path)
            _flush(path.parent)
    finally:
        _remove(scratch)


def atomic_write(path: Path | str, content: str | bytes) -> None:
    """Writes `content` to `path` so that a reader sees the old file or the new one, never half of it."""
    with atomic_path(path) as scratch:
        scratch.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: Path | str, value: Any) -> None:
    """`value` as indented UTF-8 JSON, atomically."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The value in a JSON file; VesaliusError with the file's name where it is not JSON."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise VesaliusError(
            f"{path} is not valid JSON ({error}); it may be cut off: remove it and write it again"
        ) from error


@contextlib.contextmanager
def disk_full_is_told(path: Path | str) -> Iterator[None]:
    """Turns "no space left" into one line that names what could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise VesaliusError(
            f"no space left to write {path}; what was written before is kept: free some space and resume"
        ) from error


def remove_scratch(folder: Path | str) -> None:
    """Removes what a killed process left half-written in `folder`."""
    for path in Path(folder).glob(".*.tmp"):
        _remove(path)


def _flush(path: Path) -> None:
    """Asks the operating system to put a file, a directory's entries and the files in it on the disk."""
    for entry in sorted(path.iterdir()) if path.is_dir() and path.name.endswith(".tmp") else []:
        _flush(entry)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(scratch: Path, path: Path) -> None:
    if scratch.is_dir() and path.is_dir():  # rename cannot replace a directory that has entries
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old.tmp")
        path.rename(old)
        scratch.rename(path)
        _remove(old)
    else:
        scratch.replace(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
