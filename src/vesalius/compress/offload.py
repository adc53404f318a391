"""A model larger than the memory it may take: the layers that do not fit are pages of mapped files.

Before a layer runs, the next one's pages are asked for, so that the disk reads while the processor computes; when it
has run, its pages are let go. A model is read from front to back again and again, so the layer that was used last is
the one that is needed last, and keeping the recent ones would keep none that helps: the first that fit stay, and the
rest take turns in the room of two (Sheng et al. 2023, arXiv:2303.06865, section 3, and Alizadeh et al. 2023,
arXiv:2312.11514, divide memory the same way). Who opens a model gives each layer away as soon as it has its weights, so
that opening takes no more memory than running.

What is let go (core/mapping) stays in the system's page cache while nobody needs that memory; only then the rate of the
disk is what counts. Left out: embedding and head, experts one by one, other devices than the CPU.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn

from vesalius.compress.fused_layers import FusedLayers, NativeLayer, is_fusable
from vesalius.compress.layer_pages import LayerPages, into_pages, tensors_of
from vesalius.core.errors import UserError
from vesalius.core.files import cache_dir
from vesalius.models.attention import Context
from vesalius.models.transformer import Layers, Transformer

TURNS = 2
"""Layers whose room the offloaded ones share: the one that runs, and the next, which is being read."""


def offload_layers(model: Transformer, memory_limit: int, directory: Path | str | None = None) -> int:
    """Keeps the weights of a built model within `memory_limit` bytes, in place -> how many layers are in files. Errors
    as of Offloading."""
    if is_offloaded(model):
        raise ValueError("the model's layers are in files already: open it again for another limit")
    if any(tensor.device.type != "cpu" for tensor in model.parameters()):
        raise ValueError(f"files are mapped into the CPU's memory, the model is on {next(model.parameters()).device}")
    sizes = [_bytes_of(layer) for layer in model.model.layers]
    offloading = Offloading(memory_limit, _bytes_of(model) - sum(sizes), sizes, directory=directory)
    for number, layer in enumerate(model.model.layers):
        offloading.take(number, layer)
    return offloading.finish(model)


def is_offloaded(model: Transformer) -> bool:
    """Whether layers of the model are in files."""
    return isinstance(model.model.layers, OffloadedLayers)


class Offloading:
    """Takes the layers of a model one by one and puts those into files that do not fit."""

    def __init__(
        self,
        memory_limit: int | None,
        rest: int,
        sizes: Sequence[int],
        *,
        directory: Path | str | None = None,
        lies_in_file: Callable[[Tensor], bool] = lambda _: False,
    ) -> None:
        """sizes, rest   bytes of each layer, and of everything else; None as the limit: all fit
        directory      of the files, by default the cache's; on a disk, for a file in memory saves none
        lies_in_file   whether a tensor is part of a mapped file as it is
        UserError where not even one layer fits beside the rest.
        """
        self._directory = cache_dir() if directory is None else Path(directory)
        self._lies_in_file = lies_in_file
        self._stay = len(sizes) if memory_limit is None else layers_that_stay(memory_limit, rest, sizes)
        self._reads_ahead = memory_limit is not None and rest + TURNS * max(sizes) <= memory_limit
        self._pages: dict[int, LayerPages] = {}

    def take(self, number: int, layer: nn.Module) -> None:
        """A layer that has its weights. UserError where the disk is full."""
        if number >= self._stay:
            self._pages[number] = into_pages(layer, self._directory, self._lies_in_file)

    def finish(self, model: Transformer) -> int:
        """Makes the model run with its layers where they are now -> how many are in files."""
        if self._pages:
            _give_back_freed()
            model.model.layers = OffloadedLayers(model.model.layers, self._pages, reads_ahead=self._reads_ahead)
        return len(self._pages)


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

    def __init__(self, layers: Layers, pages: dict[int, LayerPages], *, reads_ahead: bool) -> None:
        super().__init__(layers)
        self.training = layers.training
        self._fused = isinstance(layers, FusedLayers)
        self._pages, self._reads_ahead = pages, reads_ahead
        self._cut()

    @property
    def offloaded(self) -> list[int]:
        """Numbers of the layers that are in files."""
        return sorted(self._pages)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        if self._blocks != tuple(self):  # somebody has replaced one
            self._cut()
        for part, pages, following in self._parts:
            if self._reads_ahead:
                following.ask_for()
            x = part(x, context)
            if pages is not None:
                pages.let_go()
        return x

    def _cut(self) -> None:
        """Into the layers that run together, each part with its own pages, if it has some, and those of the next."""
        self._blocks = tuple(self)
        cuts = sorted({0, *self._pages, *(i + 1 for i in self._pages), len(self._blocks)})
        parts = [(self._part(first, end), self._pages.get(first)) for first, end in pairwise(cuts)]
        pages = [some for _, some in parts]
        following = [next(p for p in pages[i + 1 :] + pages[: i + 1] if p is not None) for i in range(len(pages))]
        self._parts = tuple((part, some, after) for (part, some), after in zip(parts, following, strict=True))

    def _part(self, first: int, end: int) -> Layers:
        blocks = self._blocks[first:end]
        part = Layers(blocks)
        if not self._fused:
            return part
        return FusedLayers(part, {i: NativeLayer(block) for i, block in enumerate(blocks) if is_fusable(block)})


def _bytes_of(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in tensors_of(module))


def _give_back_freed() -> None:
    """The C library keeps what was freed for later; here that is what memory was to be saved on."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # glibc has it, musl gives memory back by itself
            ctypes.CDLL(None).malloc_trim(0)
