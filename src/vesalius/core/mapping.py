"""Mapped files whose pages come and go: memory of the operating system that this process only looks at.

Asking for pages and letting them go is Linux's madvise; elsewhere the system does both as it sees fit. What is let go
is not lost: it stays in the file, and in the page cache while nobody needs that memory. Pages are whole: of a tensor's
first and last one, which others may share, nothing is said.
"""

import ctypes
import functools
import mmap
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from torch import Tensor

_PRIVATE_FILE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r..p [0-9a-f]+ \S+ (\d+)")
"""A line of /proc/self/maps: where, what may be done and whether alone, offset, device, number of the file."""


def reserved(file: IO[bytes], size: int) -> mmap.mmap:
    """`size` bytes of an empty file, mapped to be read and written. OSError where the disk has no room for them.

    The room is taken now: a write to a page for which the disk has none would end the process.
    """
    if sys.platform == "linux":
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.write(bytes(size))
        file.flush()
    return mmap.mmap(file.fileno(), size)


def ask_for(mapped: Tensor) -> None:
    """Begins to read the pages under a part of a mapped file, while this process goes on."""
    if sys.platform == "linux":
        _advise(mapped, mmap.MADV_WILLNEED)


def let_go(mapped: Tensor) -> None:
    """Takes the pages under a part of a mapped file out of this process's memory. Of a file that is mapped privately,
    what was written to them is lost."""
    if sys.platform == "linux":
        _advise(mapped, mmap.MADV_DONTNEED)


def private_files() -> list[tuple[int, int]]:
    """First address and end of whatever this process has mapped of files for itself alone; nothing where the system
    does not tell."""
    if sys.platform != "linux":
        return []
    lines = map(_PRIVATE_FILE.match, Path("/proc/self/maps").read_text().splitlines())
    return [(int(line[1], 16), int(line[2], 16)) for line in lines if line and int(line[3])]


def _advise(mapped: Tensor, advice: int) -> None:
    last = sum((size - 1) * stride for size, stride in zip(mapped.shape, mapped.stride(), strict=True))
    start, end = mapped.data_ptr(), mapped.data_ptr() + (last + 1) * mapped.element_size()
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = end // mmap.PAGESIZE * mmap.PAGESIZE - first
    if mapped.numel() and length > 0:
        _madvise()(first, length, advice)


@functools.cache
def _madvise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
