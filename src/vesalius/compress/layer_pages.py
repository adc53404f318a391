"""The weights of one layer as pages of files, to be read when it runs and let go afterwards.

A tensor that lies in the file which the model was opened from stays there. All others go into a file of the layer's
own, without a name, so nothing is left behind however the process ends. Tensors are replaced in place and hold the same
numbers in the same order, so the answers are the same to the bit.
"""

import errno
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from vesalius.compress.quantised_module import QuantisedModule
from vesalius.core.errors import UserError
from vesalius.core.mapping import ask_for, let_go, reserved

ALIGNMENT = 64
"""Bytes, as torch aligns its memory: products take the same way through a mapped weight as through any other."""


class LayerPages:
    """Where one layer's weights are: in a file of its own, as one piece, and in files that others wrote."""

    def __init__(self, own: Tensor, others: list[Tensor]) -> None:
        self._own, self._others = own, others
        self._versions = self._now()

    def ask_for(self) -> None:
        """Begins to read them."""
        for piece in (self._own, *self._others):
            ask_for(piece)

    def let_go(self) -> None:
        """Takes them out of memory. What was written to the layer is in its own file by itself; others' files are
        mapped privately, so that a weight of theirs which somebody has written to has to stay."""
        let_go(self._own)
        for piece, before, now in zip(self._others, self._versions, self._now(), strict=True):
            if before == now:
                let_go(piece)

    def _now(self) -> list[int]:
        return [piece._version for piece in self._others]


def into_pages(block: nn.Module, directory: Path, lies_in_file: Callable[[Tensor], bool]) -> LayerPages:
    """Makes a layer's tensors parts of mapped files. UserError where the disk is full."""
    tensors = [tensor for tensor in tensors_of(block) if tensor.nbytes]
    others = [tensor for tensor in tensors if lies_in_file(tensor)]
    moving = [tensor for tensor in tensors if not lies_in_file(tensor)]
    starts, size = [], 0
    for tensor in moving:
        starts.append(size)
        size += padded(tensor.nbytes, ALIGNMENT)
    own = _written(moving, starts, size, directory)
    places = {id(tensor): own[start : start + tensor.nbytes] for tensor, start in zip(moving, starts, strict=True)}

    def moved(tensor: Tensor) -> Tensor:
        if id(tensor) not in places:
            return tensor
        order = _order(tensor)
        lying = places[id(tensor)].view(tensor.dtype).view([tensor.shape[dim] for dim in order])
        return lying.permute([order.index(dim) for dim in range(tensor.dim())])

    for tensor in (*block.parameters(), *block.buffers()):
        tensor.data = moved(tensor)
    matrices = {id(matrix): matrix.moved(moved) for module in _quantised(block) for matrix in module.packed}
    for module in _quantised(block):
        module.hold(tuple(matrices[id(matrix)] for matrix in module.packed))
    return LayerPages(own, others)


def tensors_of(module: nn.Module) -> list[Tensor]:
    """All that hold its weights, each once. One on "meta" is not there yet."""
    matrices = {id(matrix): matrix for part in _quantised(module) for matrix in part.packed}
    packed = [tensor for matrix in matrices.values() for tensor in matrix.tensors]
    return [tensor for tensor in (*module.parameters(), *module.buffers(), *packed) if not tensor.is_meta]


def padded(size: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-size // unit) * unit


def _written(tensors: list[Tensor], starts: list[int], size: int, directory: Path) -> Tensor:
    """A mapped file without a name, uint8 (whole pages,), with the bytes of each tensor where it starts."""
    if not size:
        return torch.empty(0, dtype=torch.uint8)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            memory = reserved(file, padded(size, mmap.PAGESIZE))
            for tensor, start in zip(tensors, starts, strict=True):
                file.seek(start)
                file.write(_bytes(tensor))
            file.flush()
            os.fsync(file.fileno())  # a page that is not on the disk yet cannot be let go
            return torch.frombuffer(memory, dtype=torch.uint8)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{directory} has no room for a layer of {size} bytes that is more than weight_bytes: free some space, "
            "give more weight_bytes, or set VESALIUS_CACHE to a directory of another disk"
        ) from error


def _bytes(tensor: Tensor) -> memoryview:
    """As they lie in memory, where they lie without gaps."""
    return tensor.detach().permute(_order(tensor)).contiguous().view(-1).view(torch.uint8).numpy().data


def _order(tensor: Tensor) -> list[int]:
    """Its dimensions, from the one with the longest steps in memory on."""
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _quantised(module: nn.Module) -> list[QuantisedModule]:
    return [part for part in module.modules() if isinstance(part, QuantisedModule)]
