"""A model larger than the memory it may take: the layers that do not fit are pages of mapped files.

Each of these layers has a file of its own, without a name, so nothing is left behind however the process ends. Before a
layer runs, the next one's file is asked for, so that the disk reads while the processor computes; when it has run, its
pages are let go. A model is read from front to back again and again, so the layer that was used last is the one that
is needed last, and keeping the recent ones would keep none that helps: the first that fit stay, and the rest take turns
in the room of two (Sheng et al. 2023, arXiv:2303.06865, section 3, and Alizadeh et al. 2023, arXiv:2312.11514, divide
memory the same way). Tensors are replaced in place and hold the same numbers, so the answers are the same to the bit.

What is let go (core/mapping) stays in the system's page cache while nobody needs that memory; only then the rate of the
disk is what counts. Left out: embedding and head, experts one by one, other devices than the CPU.
"""

import contextlib
import ctypes
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from vesalius.compress.fused_layers import FusedLayers, NativeLayer, is_fusable
from vesalius.compress.quantised_module import QuantisedModule
from vesalius.core.errors import UserError
from vesalius.core.files import cache_dir, disk_full_is_told
from vesalius.core.mapping import ask_for, let_go
from vesalius.models.attention import Context
from vesalius.models.transformer import Layers, Transformer

ALIGNMENT = 64
"""Bytes, as torch aligns its memory: products take the same way through a mapped weight as through any other."""

TURNS = 2
"""Layers whose room the offloaded ones share: the one that runs, and the next, which is being read."""


def offload_layers(model: Transformer, memory_limit: int, directory: Path | str | None = None) -> int:
    """Keeps the weights of a built model within `memory_limit` bytes, in place -> how many layers are in files.

    directory: of the files, by default the cache's; on a disk, for a file in memory saves none. UserError where not
    even one layer fits beside the embedding and the head.
    """
    if isinstance(model.model.layers, OffloadedLayers):
        raise ValueError("the model's layers are in files already: open it again for another limit")
    if any(tensor.device.type != "cpu" for tensor in model.parameters()):
        raise ValueError(f"files are mapped into the CPU's memory, the model is on {next(model.parameters()).device}")
    place = cache_dir() if directory is None else Path(directory)
    layers = model.model.layers
    sizes = [_bytes_of(layer) for layer in layers]
    rest = _bytes_of(model) - sum(sizes)
    files = {i: _move(layers[i], place) for i in range(layers_that_stay(memory_limit, rest, sizes), len(layers))}
    if files:
        _give_back_freed()
        ahead = rest + TURNS * max(sizes) <= memory_limit
        model.model.layers = OffloadedLayers(layers, files, reads_ahead=ahead)
    return len(files)


def layers_that_stay(limit: int, rest: int, sizes: Sequence[int]) -> int:
    """How many layers, from the first on, stay in memory where all else takes `rest` bytes. UserError for none and no
    room to run one in.

    >>> layers_that_stay(100, 20, [10] * 8), layers_that_stay(80, 20, [10] * 8), layers_that_stay(30, 20, [10] * 8)
    (8, 4, 0)
    """
    if rest + sum(sizes) <= limit:
        return len(sizes)
    if rest + max(sizes) > limit:
        raise UserError(
            f"weight_bytes = {limit}, but the embedding and the head take {rest} and a layer {max(sizes)}: "
            f"give at least {rest + max(sizes)}"
        )
    room, stay = limit - rest - TURNS * max(sizes), 0
    while sizes[stay] <= room:
        room -= sizes[stay]
        stay += 1
    return stay


class OffloadedLayers(Layers):
    """The layers it is made from, of which some are in files. Where they were fused, all that stay are one native call
    and each of the others is one."""

    def __init__(self, layers: Layers, files: dict[int, mmap.mmap], *, reads_ahead: bool) -> None:
        super().__init__(layers)
        self.training = layers.training
        self._fused = isinstance(layers, FusedLayers)
        self._files, self._reads_ahead = files, reads_ahead
        self._cut()

    @property
    def offloaded(self) -> list[int]:
        """Numbers of the layers that are in files."""
        return sorted(self._files)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self._blocks != tuple(self):  # somebody has replaced one
            self._cut()
        for part, file, following in self._parts:
            if self._reads_ahead:
                ask_for(following)
            x = part(x, context)
            if file is not None:
                let_go(file)
        return x

    def _cut(self) -> None:
        """Into the layers that run together, each part with its own file, if it has one, and the next one's."""
        self._blocks = tuple(self)
        cuts = sorted({0, *self._files, *(i + 1 for i in self._files), len(self._blocks)})
        parts = [(self._part(first, end), self._files.get(first)) for first, end in pairwise(cuts)]
        files = [file for _, file in parts]
        following = [next(f for f in files[i + 1 :] + files[: i + 1] if f is not None) for i in range(len(files))]
        self._parts = tuple((part, file, after) for (part, file), after in zip(parts, following, strict=True))

    def _part(self, first: int, end: int) -> Layers:
        blocks = self._blocks[first:end]
        part = Layers(blocks)
        if not self._fused:
            return part
        return FusedLayers(part, {i: NativeLayer(block) for i, block in enumerate(blocks) if is_fusable(block)})


def _move(block: nn.Module, directory: Path) -> mmap.mmap:
    """Makes a block's tensors parts of a mapped file. What is written to them is written to the file."""
    tensors = [tensor for tensor in _tensors(block) if tensor.nbytes]
    with disk_full_is_told(directory), tempfile.TemporaryFile(dir=directory) as file:
        starts = []
        for tensor in tensors:
            file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
            starts.append(file.tell())
            file.write(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())  # a page that is not on the disk yet cannot be let go
        memory = mmap.mmap(file.fileno(), 0)
    places = {id(tensor): start for tensor, start in zip(tensors, starts, strict=True)}

    def mapped(tensor: Tensor) -> Tensor:
        if id(tensor) not in places:
            return tensor
        numbers = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=places[id(tensor)])
        return numbers.view(tensor.shape)

    for tensor in (*block.parameters(), *block.buffers()):
        tensor.data = mapped(tensor)
    moved = {id(matrix): matrix.moved(mapped) for module in _quantised(block) for matrix in module.packed}
    for module in _quantised(block):
        module.hold(tuple(moved[id(matrix)] for matrix in module.packed))
    return memory


def _tensors(module: nn.Module) -> list[Tensor]:
    """All that hold its weights, each once. One on "meta" is not there yet."""
    matrices = {id(matrix): matrix for part in _quantised(module) for matrix in part.packed}
    packed = [tensor for matrix in matrices.values() for tensor in matrix.tensors]
    return [tensor for tensor in (*module.parameters(), *module.buffers(), *packed) if not tensor.is_meta]


def _quantised(module: nn.Module) -> list[QuantisedModule]:
    return [part for part in module.modules() if isinstance(part, QuantisedModule)]


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in _tensors(module))


def _give_back_freed() -> None:
    """The C library keeps what was freed for later; here that is what memory was to be saved on."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # glibc has it, musl gives memory back by itself
            ctypes.CDLL(None).malloc_trim(0)
