"""Keys and values of all sequences in one pool of blocks, and the view of it that one step of the model reads through.
Kwon et al. 2023, arXiv:2309.06180, section 4.

The pool is one tensor for the keys of all layers and one for the values, of which a layer's pages are a view: a block
number means the same block in every layer. What is never written costs no memory on a CPU. In int8 each key and each
value has one scale for each head (KIVI, arXiv:2402.02750, section 3, does so for values).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vesalius.infer.blocks import BlockManager
from vesalius.kernels.attention import PLAIN, AttentionRule
from vesalius.kernels.paged_attention import Pages, Segments, paged_attention, write
from vesalius.models.attention import Room
from vesalius.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a model keeps of a token in one layer: `heads` keys and values of these widths; a `latent` one reads the
    first so many numbers of its key as the value."""

    layers: int
    heads: int
    key: int
    value: int
    latent: int = 0

    @classmethod
    def of(cls, config: ModelConfig) -> "Sizes":
        """Of a model."""
        L, m = config.num_hidden_layers, config.latent_attention
        if m is not None:
            return cls(layers=L, heads=1, key=m.kv_lora_rank + m.qk_rope_head_dim, value=0, latent=m.kv_lora_rank)
        return cls(layers=L, heads=config.num_key_value_heads, key=config.head_dim, value=config.head_dim)

    def bytes_a_position(self, dtype: torch.dtype) -> int:
        """Of all layers, scales included."""
        tensors = 1 if self.latent else 2
        scales = 4 * tensors if dtype == torch.int8 else 0
        return self.layers * self.heads * ((self.key + self.value) * dtype.itemsize + scales)


class BlockPool:
    """`count` blocks of `size` positions."""

    def __init__(
        self, config: ModelConfig, count: int, size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        sizes = Sizes.of(config)
        shape = (sizes.layers, count, sizes.heads, size)

        def room(*width: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(*shape, *width, dtype=dtype, device=device)

        scaled, valued = dtype == torch.int8, not sizes.latent
        keys, values = room(sizes.key), room(sizes.value) if valued else None
        key_scales = room(dtype=torch.float32) if scaled else None
        value_scales = room(dtype=torch.float32) if scaled and valued else None
        self._tensors = [tensor for tensor in (keys, values, key_scales, value_scales) if tensor is not None]
        self.pages = [
            Pages(
                keys[layer],
                values[layer] if values is not None else None,
                key_scales[layer] if key_scales is not None else None,
                value_scales[layer] if value_scales is not None else None,
                sizes.latent,
            )
            for layer in range(sizes.layers)
        ]
        self.device, self.count, self.size = keys.device, count, size
        self.block_bytes = size * sizes.bytes_a_position(dtype)

        self._made = (config, size, dtype)

    def of_size(self, count: int) -> "BlockPool":
        """Another pool of the same kind."""
        config, size, dtype = self._made
        return BlockPool(config, count, size, dtype, self.device)

    def copy(self, source: int, target: int) -> None:
        """Makes one block hold what another does."""
        for tensor in self._tensors:
            tensor[:, target] = tensor[:, source]

    def move(self, table: list[int], sources: list[int], target: int) -> None:
        """Makes the positions from `target` on of a text in these blocks hold what those at `sources` do."""
        size = self.pages[0].positions
        places = [(table[at // size], at % size) for at in (*sources, *range(target, target + len(sources)))]
        blocks, offsets = torch.tensor(places, device=self.device).view(2, -1, 2).unbind(-1)
        for tensor in self._tensors:
            tensor[:, blocks[1], :, offsets[1]] = tensor[:, blocks[0], :, offsets[0]]

    def read(self, blocks: list[int]) -> list[Tensor]:
        """What blocks hold, as copies: (L, M, …) each."""
        rows = torch.tensor(blocks, dtype=torch.int64, device=self.device)
        return [tensor.index_select(1, rows) for tensor in self._tensors]

    def write(self, blocks: list[int], contents: list[Tensor]) -> None:
        """Puts what `read` gave into blocks."""
        for tensor, content in zip(self._tensors, contents, strict=True):
            for block, part in zip(blocks, content.to(self.device).unbind(1), strict=True):
                tensor[:, block] = part  # whole runs of memory: index_copy_ takes seven times as long


def make_room(pool: BlockPool, blocks: BlockManager, table: list[int], start: int, end: int) -> None:
    """Makes the blocks of positions from `start` to `end` the table's own: others' are copied, missing ones allocated.

    Copy on write: Kwon et al. 2023, section 4.4. OutOfBlocksError where there are too few.
    """
    for i in range(start // blocks.size, len(table)):
        if blocks.is_shared(table[i]):
            own = blocks.allocate()
            pool.copy(table[i], own)
            blocks.release([table[i]])
            table[i] = own
    while len(table) * blocks.size < end:
        table.append(blocks.allocate())


class BatchCache:
    """What one step of the model reads and writes: (1, N) tokens of many sequences; see models.attention.Cache."""

    def __init__(self, pool: BlockPool, segments: Segments) -> None:
        self._pool, self._segments = pool, segments

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        """Adds the new k and v (1, K, N, E), then attends: q (1, H, N, E) -> (1, H, N, E)."""
        pages = self._pool.pages[layer]
        write(pages, self._segments, k[0].transpose(0, 1), v[0].transpose(0, 1))
        mixed = paged_attention(q[0].transpose(0, 1), pages, self._segments, rule)  # (N, H, E)
        return mixed.transpose(0, 1).unsqueeze(0)

    def room(self, layer: int, count: int) -> Room | None:
        """Where a layer's new keys and values go; the same in every layer."""
        pages = self._pool.pages[layer]
        return None if pages.values is None else Room(pages, self._segments)
