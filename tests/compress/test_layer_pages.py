"""A layer's weights as pages of files: the same numbers, which come and go, and nothing is left on the disk."""

import errno
import sys

import pytest
import torch
from mapped import resident_bytes
from torch import nn

from vesalius.compress.layer_pages import into_pages
from vesalius.core.errors import UserError

BYTES = 512 * 512 * 4
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages come and go as the system sees fit")


def layer():
    torch.manual_seed(0)
    return nn.Linear(512, 512)


def nowhere(_):
    return False


def test_the_numbers_and_the_order_in_which_they_lie_stay(tmp_path):
    built = layer()
    built.weight.data = built.weight.data.T
    before = built.weight.detach().clone()
    into_pages(built, tmp_path, nowhere)
    assert torch.equal(built.weight, before)
    assert built.weight.stride() == (1, 512)
    assert built.weight.data_ptr() % 64 == built.bias.data_ptr() % 64 == 0
    assert not list(tmp_path.iterdir())


@on_linux
def test_what_is_let_go_takes_no_memory_until_it_is_read_again(tmp_path):
    built = layer()
    pages, total = into_pages(built, tmp_path, nowhere), built.weight.sum()
    assert resident_bytes(built.weight) >= BYTES
    pages.let_go()
    assert resident_bytes(built.weight) == 0
    pages.ask_for()
    assert built.weight.sum() == total


def test_what_is_written_to_a_layer_of_its_own_file_stays(tmp_path):
    built = layer()
    pages = into_pages(built, tmp_path, nowhere)
    with torch.no_grad():
        built.weight.fill_(3)
    pages.let_go()
    assert (built.weight == 3).all()


@pytest.fixture
def others(tmp_path):
    """A layer whose matrix lies in a file that somebody else wrote, behind three bytes of something else."""
    file, built = tmp_path / "theirs", layer()
    file.write_bytes(bytes(64) + built.weight.detach().numpy().tobytes())
    mapped = torch.from_file(str(file), shared=False, size=64 + BYTES, dtype=torch.uint8)
    built.weight = nn.Parameter(mapped[64:].view(torch.float32).view(512, 512))
    return built, file


@on_linux
def test_what_lies_in_a_file_stays_there_and_comes_and_goes_too(others, tmp_path):
    built, file = others
    place = built.weight.data_ptr()
    pages = into_pages(built, tmp_path, lambda tensor: tensor.data_ptr() == place)
    assert built.weight.data_ptr() == place
    assert torch.equal(built.weight, layer().weight)
    assert resident_bytes(built.weight) >= BYTES
    pages.let_go()
    assert resident_bytes(built.weight) <= 2 * 4096
    assert torch.equal(built.weight, layer().weight)
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_written_to_others_files_is_not_let_go_and_not_written_there(others, tmp_path):
    built, file = others
    place, before = built.weight.data_ptr(), file.read_bytes()
    pages = into_pages(built, tmp_path, lambda tensor: tensor.data_ptr() == place)
    with torch.no_grad():
        built.weight.mul_(2)
    pages.let_go()
    assert torch.equal(built.weight, 2 * layer().weight)
    assert file.read_bytes() == before


def test_a_full_disk_is_one_line_and_nothing_is_left_on_it(tmp_path, monkeypatch):
    def full(file, size):
        file.write(bytes(size // 2))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vesalius.compress.layer_pages.reserved", full)
    with pytest.raises(UserError, match=r"no room for a layer of 1050624 bytes .* weight_bytes: free .*VESALIUS_CACHE"):
        into_pages(layer(), tmp_path, nowhere)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        into_pages(layer(), tmp_path / "none", nowhere)
