"""Layers of a quantised model as native calls (kernels/native/decoder.cpp).

A step of a small model is hundreds of operations on a few hundred numbers, and calling them from Python takes longer
than computing them; a prompt spends as long on what stands between its products as on them. `fuse_layers` gives the
model's layers another way through them: for new tokens of any number of sequences, over a cache that shares its pages,
all neighbouring layers that the native side can say are one call. In every other case, and for a layer of which
somebody listens to a part or has replaced one, the blocks run as they were built. Same modules, same names, same
weights.

Left out: the parts that decoder.cpp names.
"""

import ctypes
import math
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from vesalius.compress.block_parts import MATRICES, NORMS, QK_NORMS, Parts, is_common
from vesalius.compress.quantised_linear import QuantisedLinear
from vesalius.kernels.native.interface import (
    AnglesStruct,
    DecoderLayerStruct,
    RuleStruct,
    functions,
    threads,
)
from vesalius.models.attention import Attention, Context, Room
from vesalius.models.blocks import PreNorm
from vesalius.models.layers import RMSNorm
from vesalius.models.transformer import Layers, Transformer


def fuse_layers(model: Transformer) -> int:
    """Fuses every layer that can be, in place, and returns how many; 0 without the native library."""
    native = {i: NativeLayer(block) for i, block in enumerate(model.model.layers) if is_fusable(block)}
    if native:
        model.model.layers = FusedLayers(model.model.layers, native)
    return len(native)


def is_fusable(block: nn.Module) -> bool:
    """Whether the native side computes what this block does. Matrices lie in tiles only where there is one."""
    if not is_common(block):
        return False
    layers = [cast(QuantisedLinear, block.get_submodule(name)) for name in MATRICES.values()]
    return all(layer.matrix.tiles is not None and layer.in_features % 32 == 0 for layer in layers)


class NativeLayer:
    """What the native side reads of a block, and the parts that it stands for."""

    def __init__(self, block: nn.Module) -> None:
        self.parts = Parts(block)
        self.attention = cast(Attention, block.self_attn)
        self._struct = _struct(block, self.attention)
        self.address = ctypes.addressof(self._struct)


class FusedLayers(Layers):
    """The layers it is made from, which it shares everything with, and the native way through them."""

    def __init__(self, layers: Layers, native: dict[int, NativeLayer]) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layers.__dict__)
        self._native = native

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        plain = x.dtype != torch.float32 or context.slopes is not None or torch.is_grad_enabled()
        if context.cache is None or plain:
            return super().forward(x, context)
        blocks, place = list(self), 0
        while place < len(blocks):
            run = self._run_from(place, blocks)
            rooms = [context.cache.room(layer.attention.layer, x.shape[1]) for layer in run]
            if run and rooms[0] is not None:
                x = _decode(x, context, run, cast(list[Room], rooms))
                place += len(run)
            else:
                x = blocks[place](x, context)
                place += 1
        return x

    def _run_from(self, place: int, blocks: list[nn.Module]) -> list[NativeLayer]:
        """The native layers from `place` on, up to the first block that has to run as it was built."""
        run: list[NativeLayer] = []
        for i in range(place, len(blocks)):
            layer = self._native.get(i)
            if layer is None or not layer.parts.are_untouched(blocks[i]):
                break
            run.append(layer)
        return run


def _decode(x: Tensor, context: Context, layers: list[NativeLayer], rooms: list[Room]) -> Tensor:
    """Layers in one call, as long as they share the segments, which those of one cache do."""
    out = x.clone(memory_format=torch.contiguous_format)
    ropes = [_rows(context.rope, len(x)), _rows(context.local_rope or context.rope, len(x))]
    angles = (AnglesStruct * 3)(AnglesStruct(), *map(_angles, ropes))
    pairs = zip(layers, rooms, strict=True)
    for _, group in groupby(pairs, lambda pair: (id(pair[1].segments), pair[1].pages.positions)):
        some = list(group)
        pages, segments = some[0][1]
        assert segments.rows == x.shape[0] * x.shape[1]
        structs = (ctypes.c_void_p * len(some))(*(layer.address for layer, _ in some))
        states = (ctypes.c_void_p * len(some))(*(ctypes.addressof(room.pages.struct) for _, room in some))
        batch = ctypes.byref(segments.struct(pages.positions))
        functions().vesalius_decoder_layers(structs, states, len(some), batch, angles, out.data_ptr(), threads(), 0)
    return out


def _rows(rope: tuple[Tensor, Tensor] | None, batch: int) -> tuple[Tensor, Tensor] | None:
    """cos and sin (B or 1, 1, T, size) for every row of a batch."""
    return rope and (rope[0].expand(batch, -1, -1, -1).contiguous(), rope[1].expand(batch, -1, -1, -1).contiguous())


def _angles(rope: tuple[Tensor, Tensor] | None) -> AnglesStruct:
    return AnglesStruct() if rope is None else AnglesStruct(rope[0].data_ptr(), rope[1].data_ptr(), rope[0].shape[-1])


def _struct(block: nn.Module, attention: Attention) -> DecoderLayerStruct:
    """Its addresses hold as long as the parts of the block do."""
    rule = attention.rule
    layers = {name: cast(QuantisedLinear, block.get_submodule(path)) for name, path in MATRICES.items()}
    norms = {name: block.get_submodule(path) for name, path in (NORMS | QK_NORMS).items()}
    struct = DecoderLayerStruct(
        hidden=layers["q"].in_features,
        heads=layers["q"].out_features // attention.head_dim,
        kv_heads=layers["k"].out_features // attention.head_dim,
        head_dim=attention.head_dim,
        intermediate=layers["gate"].out_features,
        angles=(2 if attention.local else 1) if attention.turns else 0,
        eps=cast(RMSNorm, norms["input_norm"]).eps,
        rule=RuleStruct(
            sinks=None if attention.sinks is None else attention.sinks.data_ptr(),
            scale=rule.scale or 1 / math.sqrt(attention.head_dim),
            softcap=rule.softcap,
            window=rule.window,
        ),
        residual=cast(PreNorm, block).residual_multiplier,
    )
    for name, layer in layers.items():
        setattr(struct, name, layer.matrix.struct())
    for name in ("q", "k", "v", "o"):
        if (bias := layers[name].bias) is not None:
            setattr(struct, f"{name}_bias", bias.data_ptr())
    for name, norm in norms.items():
        if isinstance(norm, RMSNorm):
            setattr(struct, name, norm.weight.data_ptr())
    return struct
