"""Layers of a quantised model in few torch operations, for a machine without a compiler.

A new token of a small model is hundreds of products with a few hundred numbers, and torch takes longer to begin most
operations than to compute them. So each layer multiplies with matrices that read the same numbers at once (queries,
keys and values; gate and up), and for a single token says the rest in the fewest and shortest operations:

    RMSNorm   torch's own is nine small operations; the one scale of one token is a number of Python's
    rotation  is linear, so what it makes of the unit vectors is its matrix, one for all layers of a step
    attention one product a key/value head for all the query heads that share it

Same modules, same names, same weights; where a block's parts are not what they were, it runs as it was built, and so do
a dense cache's batches of several rows and caches that keep keys and values to themselves. Then its matrices are packed
a second time, each by itself. Left out: torch.compile, which needs a compiler; torch.jit, which torch is leaving.
"""

import math
from functools import cached_property
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.compress.block_parts import MATRICES, Parts, is_common
from vesalius.compress.quantised_linear import QuantisedLinear
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.norms import rms_norm
from vesalius.kernels.paged_attention import paged_attention, write
from vesalius.kernels.rope import rotate
from vesalius.kernels.torch_forms import TorchForm, torch_form
from vesalius.models.attention import Attention, Context, Room
from vesalius.models.layers import RMSNorm
from vesalius.models.transformer import Layers, Transformer

Rope = tuple[Tensor, Tensor]
"""cos and sin, (1, 1, T, size)."""


def shorten_layers(model: Transformer) -> int:
    """Shortens every layer that can be, in place, and returns how many; 0 where the matrices lie in native tiles."""
    short = {i: TorchLayer(block) for i, block in enumerate(model.model.layers) if is_shortenable(block)}
    if short:
        model.model.layers = TorchLayers(model.model.layers, short)
    return len(short)


def is_shortenable(block: nn.Module) -> bool:
    """Whether TorchLayer computes what this block does, and torch is what multiplies its matrices."""
    if not is_common(block):
        return False
    attention = cast(Attention, block.self_attn)
    layers = [cast(QuantisedLinear, block.get_submodule(name)) for name in MATRICES.values()]
    plain_scores = attention.sinks is None and not attention.rule.softcap
    return plain_scores and all(layer.matrix.stored is not None for layer in layers)


class Stack:
    """Matrices that read the same numbers, one above the other: x (T, columns) -> (T, all their rows) float32."""

    def __init__(self, *layers: QuantisedLinear) -> None:
        self._layers = layers

    @cached_property
    def _forms(self) -> list[TorchForm]:
        blocks = [layer.blocks() for layer in self._layers]
        return [
            torch_form(BlockTensor.of(format, torch.cat([same.blocks for same in alike])))
            for format, alike in groupby(blocks, key=lambda part: part.format)
        ]

    @cached_property
    def _bias(self) -> Tensor | None:
        if all(layer.bias is None for layer in self._layers):
            return None
        biases = [(layer.bias, layer.out_features) for layer in self._layers]
        return torch.cat([torch.zeros(rows) if bias is None else bias.detach() for bias, rows in biases])

    def __call__(self, x: Tensor) -> Tensor:
        parts = [form.product(x) for form in self._forms]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return y if self._bias is None else y + self._bias


class TorchLayer:
    """Another way through one block."""

    def __init__(self, block: nn.Module) -> None:
        self.parts = Parts(block)
        self.attention = cast(Attention, block.self_attn)
        layers = {name: cast(QuantisedLinear, block.get_submodule(path)) for name, path in MATRICES.items()}
        self._qkv, self._gate_up = Stack(layers["q"], layers["k"], layers["v"]), Stack(layers["gate"], layers["up"])
        self._o, self._down = Stack(layers["o"]), Stack(layers["down"])
        self._norms = cast(RMSNorm, block.input_layernorm), cast(RMSNorm, block.post_attention_layernorm)
        self._residual = cast(float, block.residual_multiplier)
        self._heads, self._kv_heads = (layers[name].out_features // self.attention.head_dim for name in ("q", "k"))
        self._zero = torch.zeros(1)

    def __call__(self, x: Tensor, turn: Tensor | Rope | None, room: Room) -> Tensor:
        """x (T, D) -> (T, D); `turn` as `turning` gives it."""
        q, k, v = self._project(self._normed(x, self._norms[0]), turn)
        x = x.add(self._o(self._mix(q, k, v, room)), alpha=self._residual)
        gate, up = self._gate_up(self._normed(x, self._norms[1])).chunk(2, -1)
        return x.add_(self._down(F.silu(gate).mul_(up)), alpha=self._residual)

    def _normed(self, x: Tensor, norm: RMSNorm) -> Tensor:
        if len(x) > 1:
            return rms_norm(x, norm.weight, norm.eps)
        square = torch.dot(x[0], x[0]).item()
        return torch.addcmul(self._zero, x, norm.weight, value=1 / math.sqrt(square / x.shape[1] + norm.eps))

    def _project(self, x: Tensor, turn: Tensor | Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, D), normed -> q (H, T, E), k and v (K, T, E)."""
        H, K = self._heads, self._kv_heads
        heads = self._qkv(x).view(len(x), -1, self.attention.head_dim).transpose(0, 1)  # (H + K + K, T, E)
        qk, v = heads.split((H + K, K))
        if isinstance(self.attention.q_norm, RMSNorm):
            norms = self.attention.q_norm, cast(RMSNorm, self.attention.k_norm)
            parts = zip(qk.split((H, K)), norms, strict=True)
            qk = torch.cat([rms_norm(part, norm.weight, norm.eps) for part, norm in parts])
        if isinstance(turn, Tensor):
            qk = torch.mm(qk.view(H + K, -1), turn).unsqueeze(1)
        elif turn is not None:
            qk = rotate(qk.unsqueeze(0), *turn)[0]
        q, k = qk.split((H, K))
        return q, k, v

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, room: Room) -> Tensor:
        """What the heads read of all keys and values so far, the new ones written: (T, H · E)."""
        (pages, segments), rule = room, self.attention.rule
        if q.shape[1] > 1 or pages.values is None or pages.keys.dtype != q.dtype:
            write(pages, segments, k.transpose(0, 1), v.transpose(0, 1))
            return paged_attention(q.transpose(0, 1), pages, segments, rule).flatten(1)
        which = segments.counts.index(1)
        past, table = segments.pasts[which], segments.tables[which]
        block, offset = divmod(past, pages.positions)
        pages.keys[table[block]].select(1, offset).copy_(k.squeeze(1))
        pages.values[table[block]].select(1, offset).copy_(v.squeeze(1))
        first = max(0, past + 1 - rule.window) if rule.window else 0
        keys, values = (_lying(part, table, first, past + 1) for part in (pages.keys, pages.values))  # (K, S, E)
        grouped, scale = q.reshape(len(k), -1, q.shape[2]), rule.scale or 1 / math.sqrt(q.shape[2])
        scores = torch.baddbmm(self._zero, grouped, keys.mT, beta=0, alpha=scale)  # (K, H/K, S)
        return torch.bmm(scores.softmax(-1), values).view(1, -1)


class TorchLayers(Layers):
    """The layers it is made from, which it shares everything with, and the short way through them."""

    def __init__(self, layers: Layers, short: dict[int, TorchLayer]) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layers.__dict__)
        self._short = short

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        plain = len(x) > 1 or x.dtype != torch.float32 or context.slopes is not None or torch.is_grad_enabled()
        if context.cache is None or plain:
            return super().forward(x, context)
        head_dim = next(iter(self._short.values())).attention.head_dim
        turn, local_turn = (turning(rope, head_dim) for rope in (context.rope, context.local_rope))
        for i, block in enumerate(self):
            short, room = self._short.get(i), None
            if short is not None and short.parts.are_untouched(block):
                room = context.cache.room(short.attention.layer, x.shape[1])
            if short is None or room is None:
                x = block(x, context)
                continue
            own = local_turn if short.attention.local and local_turn is not None else turn
            x = short(x[0], own if short.attention.turns else None, room).unsqueeze(0)
        return x


def turning(rope: Rope | None, head_dim: int) -> Tensor | Rope | None:
    """For one token the matrix (E, E) that turns a head: what becomes of the unit vectors. For several the angles."""
    if rope is None or rope[0].shape[2] > 1:
        return rope
    return rotate(torch.eye(head_dim).view(1, head_dim, 1, head_dim), *rope).view(head_dim, head_dim)


def _lying(storage: Tensor, table: list[int], first: int, end: int) -> Tensor:
    """Positions `first` to end - 1 of a sequence whose blocks are `table`, of storage (N, K, P, E): (K, S, E).

    In one block they are read where they lie; blocks that follow each other are copied at once.
    """
    P = storage.shape[2]
    begin = first // P
    used = table[begin : -(-end // P)]
    start = used[0]
    if len(used) == 1:
        joined = storage[start]
    else:
        in_line = used == list(range(start, start + len(used)))
        blocks = storage[start : start + len(used)] if in_line else storage[torch.tensor(used)]
        joined = blocks.transpose(0, 1).flatten(1, 2)
    return joined.narrow(1, first - begin * P, end - first)
