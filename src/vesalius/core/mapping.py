"""Mapped files whose pages come and go: memory of the operating system that this process only looks at.

Asking for pages and letting them go is Linux's madvise; elsewhere the system does both as it sees fit. What is let go
is not lost: it stays in the file, and in the page cache while nobody needs that memory.
"""

import mmap
import os
import sys
from typing import IO


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


def ask_for(memory: mmap.mmap) -> None:
    """Begins to read all pages, while this process goes on."""
    if sys.platform == "linux":
        memory.madvise(mmap.MADV_WILLNEED)


def let_go(memory: mmap.mmap) -> None:
    """Takes all pages out of this process's memory."""
    if sys.platform == "linux":
        memory.madvise(mmap.MADV_DONTNEED)
