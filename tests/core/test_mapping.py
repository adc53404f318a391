"""Mapped files: what is asked for comes, what is let go leaves this process's memory and is still in the file."""

import mmap
import sys
import tempfile

import pytest
import torch
from mapped import resident_bytes

from vesalius.core.mapping import ask_for, let_go, private_files, reserved

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="madvise and /proc are Linux's")

PAGES = 64


@pytest.fixture
def shared(tmp_path):
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        return torch.frombuffer(reserved(file, PAGES * mmap.PAGESIZE), dtype=torch.uint8)


@pytest.fixture
def private(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(256)) * (PAGES * mmap.PAGESIZE // 256))
    return torch.from_file(str(path), shared=False, size=PAGES * mmap.PAGESIZE, dtype=torch.uint8)


def test_what_was_written_to_a_shared_file_is_there_when_its_pages_come_back(shared):
    shared.fill_(7)
    assert resident_bytes(shared) == shared.nbytes
    let_go(shared)
    assert resident_bytes(shared) == 0
    ask_for(shared)
    assert shared.sum() == 7 * shared.nbytes


def test_only_whole_pages_of_a_part_are_let_go(shared):
    shared.fill_(1)
    let_go(shared[1 : 3 * mmap.PAGESIZE + 1])
    assert resident_bytes(shared) == (PAGES - 2) * mmap.PAGESIZE
    let_go(shared[5:70])
    let_go(shared[:0])
    assert resident_bytes(shared) == (PAGES - 2) * mmap.PAGESIZE


def test_a_part_may_lie_in_any_order(shared):
    shared.fill_(1)
    let_go(shared[: 4 * mmap.PAGESIZE].view(4, -1).T)
    assert resident_bytes(shared) == (PAGES - 4) * mmap.PAGESIZE


def test_private_files_are_told_apart_from_memory_and_from_shared_files(private, shared):
    def lies_in_one(tensor):
        return any(start <= tensor.data_ptr() < end for start, end in private_files())

    assert lies_in_one(private)
    assert lies_in_one(private[-1:])
    assert not lies_in_one(shared)
    assert not lies_in_one(torch.zeros(1 << 20))
