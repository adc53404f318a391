"""Blocks of a quantised model that are one native call each (kernels/native/decoder.cpp and decoder_prompt.cpp).

A step of a small model is hundreds of operations on a few hundred numbers, and calling them from Python takes longer
than computing them; a prompt spends as long on what stands between its products as on them. `fuse_blocks` gives the
blocks that the native layer can say another forward: for new tokens of one sequence over a cache that shares its
buffers, all of the block is one call. In every other case, and as
soon as somebody listens to a part of the block or replaces one, the block runs as it was built. Same modules, same
names, same weights.

Left out: batches of several sequences, and the parts that decoder.cpp names.
"""

import ctypes
import math
from typing import cast

import torch
from torch import Tensor, nn

from vesalius.compress.quantised_linear import QuantisedLinear
from vesalius.kernels.native.interface import (
    DecoderLayerStruct,
    DecoderStateStruct,
    available,
    functions,
    threads,
)
from vesalius.models.attention import Attention, Context, Room
from vesalius.models.blocks import PreNorm
from vesalius.models.layers import ACTIVATIONS, GatedMLP, RMSNorm
from vesalius.models.transformer import Transformer

PANEL = 8
"""New tokens that decoder.cpp takes at most (quantised.h); decoder_prompt.cpp takes any number."""

WIDEST = 16
"""What the width of a head must be a multiple of for decoder_prompt.cpp."""

ELEMENTS = {torch.float32: 0, torch.bfloat16: 1}
"""What a cache may hold, by the numbers of decoder.cpp."""

MATRICES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
MATRICES |= {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
NORMS = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}
QK_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}


def fuse_blocks(model: Transformer) -> int:
    """Fuses every block that can be, in place, and returns how many; 0 without the native library."""
    if not available():
        return 0
    found = [i for i, block in enumerate(model.model.layers) if is_fusable(block)]
    for i in found:
        model.model.layers[i] = FusedBlock(cast(PreNorm, model.model.layers[i]))
    return len(found)


def is_fusable(block: nn.Module) -> bool:
    """Whether the native layer computes what this block does."""
    if type(block) is not PreNorm or type(block.self_attn) is not Attention or type(block.mlp) is not GatedMLP:
        return False
    attention, mlp = block.self_attn, block.mlp
    layers = [block.get_submodule(name) for name in MATRICES.values()]
    if any(type(layer) is not QuantisedLinear or layer.matrix.tiles is None for layer in layers):
        return False
    norms = [block.get_submodule(name) for name in NORMS.values()]
    qk_norms = [block.get_submodule(name) for name in QK_NORMS.values()]
    plain_norms = all(type(norm) is RMSNorm for norm in norms)
    plain_qk = all(type(norm) is nn.Identity for norm in qk_norms)
    head_qk = all(type(norm) is RMSNorm for norm in qk_norms) and not attention.norms_all_heads
    plain_mlp = mlp.act is ACTIVATIONS["silu"] and all(
        mlp.get_submodule(n).bias is None for n in ("gate_proj", "up_proj")
    )
    whole_groups = all(layer.in_features % 32 == 0 for layer in cast(list[QuantisedLinear], layers))
    plain_scores = attention.sinks is None and not attention.rule.softcap
    return (
        plain_norms
        and (plain_qk or head_qk)
        and plain_mlp
        and mlp.down_proj.bias is None
        and whole_groups
        and plain_scores
        and not block.dropout.p
    )


class FusedBlock(PreNorm):
    """The block it is made from, which it shares everything with, and the native way through it."""

    self_attn: Attention
    mlp: GatedMLP

    def __init__(self, block: PreNorm) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(block.__dict__)
        names = ("self_attn", "mlp", *MATRICES.values(), *NORMS.values(), *QK_NORMS.values())
        parts = [(block.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
        self._parts = [(parent._modules, name, parent.get_submodule(name)) for parent, name in parts]
        self._struct = self._native_layer()
        self._address = ctypes.addressof(self._struct)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        fits = len(x) == 1 and (x.shape[1] <= PANEL or self.self_attn.head_dim % WIDEST == 0)
        if context.cache is not None and fits and self._is_untouched(x, context):
            room = context.cache.room(self.self_attn.layer, x.shape[1])
            if room is not None:
                return self._decode(x, context, room)
        return super().forward(x, context)

    def _is_untouched(self, x: Tensor, context: Context) -> bool:
        """Whether every part is the one that was fused, and nobody listens to it or wants a gradient."""
        for siblings, name, part in self._parts:
            if siblings[name] is not part or part._forward_hooks or part._forward_pre_hooks:
                return False
        return x.dtype == torch.float32 and context.slopes is None and not torch.is_grad_enabled()

    def _decode(self, x: Tensor, context: Context, room: Room) -> Tensor:
        attention = self.self_attn
        rope = context.local_rope if attention.local and context.local_rope is not None else context.rope
        out = x.clone(memory_format=torch.contiguous_format)
        state = DecoderStateStruct(
            keys=room.keys.data_ptr(),
            values=room.values.data_ptr(),
            capacity=room.keys.shape[2],
            past=room.past,
            element=ELEMENTS[room.keys.dtype],
        )
        if rope is not None and attention.turns:
            cos, sin = rope[0].contiguous(), rope[1].contiguous()  # (1, 1, T, size)
            state.cos, state.sin, state.rotary = cos.data_ptr(), sin.data_ptr(), cos.shape[-1]
        functions().vesalius_decoder_layer(
            self._address, ctypes.addressof(state), out.data_ptr(), x.shape[1], threads(), 0
        )
        return out

    def _native_layer(self) -> DecoderLayerStruct:
        """What the native side reads; its addresses hold as long as the parts do."""
        attention, rule = self.self_attn, self.self_attn.rule
        layers = {name: cast(QuantisedLinear, self.get_submodule(path)) for name, path in MATRICES.items()}
        norms = {name: self.get_submodule(path) for name, path in (NORMS | QK_NORMS).items()}
        struct = DecoderLayerStruct(
            hidden=layers["q"].in_features,
            heads=layers["q"].out_features // attention.head_dim,
            kv_heads=layers["k"].out_features // attention.head_dim,
            head_dim=attention.head_dim,
            intermediate=layers["gate"].out_features,
            window=rule.window,
            eps=cast(RMSNorm, norms["input_norm"]).eps,
            scale=rule.scale or 1 / math.sqrt(attention.head_dim),
            residual=self.residual_multiplier,
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
