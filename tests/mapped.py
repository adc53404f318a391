"""How much of a mapped file is in this process's memory, as Linux counts it."""

from pathlib import Path

from torch import Tensor


def resident_bytes(mapped: Tensor) -> int:
    """Of the whole mapping that a tensor lies in."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            start, end = (int(number, 16) for number in first.split("-"))
            found = start <= mapped.data_ptr() < end
        elif found and first == "Rss:":
            return int(rest[0]) * 1024
    raise AssertionError("the tensor lies in no mapping")
