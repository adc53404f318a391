"""The key/value cache: attention reads all earlier tokens without computing them again.
Pope et al. 2022, arXiv:2211.05102, section 3.

Keys and values of each layer stand in one (B, K, S, E) buffer with room to spare: a step writes its rows in place,
and a full buffer is copied into one twice as long, so the copies of a whole generation cost less than two copies of
its final size. The K heads are never repeated for the H query heads that share them. Latent attention keeps one vector
a token instead (DeepSeek-V2, arXiv:2405.04434, section 2.1.2). Left out: rows of different lengths, pages, quantised
values; they are other caches behind the same `attend`.
"""

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.kernels.attention import PLAIN, AttentionRule, attention
from vesalius.kernels.paged_attention import Pages, Segments
from vesalius.models.attention import Room
from vesalius.models.config import ModelConfig


class DenseCache:
    """Keys and values of `batch_size` sequences of equal length, up to the model's context."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        batch_size: int = 1,
        capacity: int = 256,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Has room for `capacity` positions at first: where the final length is known, nothing need be copied."""
        self.limit = config.max_position_embeddings
        heads, *widths = self._sizes(config)
        shapes = [(batch_size, heads, min(capacity, self.limit), width) for width in widths]
        layers = range(config.num_hidden_layers)
        self._keys, self._values = (
            [torch.empty(shape, dtype=dtype, device=device) for _ in layers] for shape in shapes
        )
        self._lengths = [0 for _ in layers]
        self._pages: dict[int, Pages] = {}
        self._segments: Segments | None = None

    def _sizes(self, config: ModelConfig) -> tuple[int, int, int]:
        """Heads, and how wide their keys and values are."""
        return config.num_key_value_heads, config.head_dim, config.head_dim

    @property
    def length(self) -> int:
        """How many positions every layer holds."""
        return self._lengths[-1]

    @property
    def nbytes(self) -> int:
        """Memory of all buffers in bytes, the room to spare included."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values))

    def positions(self, count: int) -> Tensor:
        """Where the next `count` tokens stand: (1, T) int64. UserError where they do not fit into the context."""
        if self.length + count > self.limit:
            raise UserError(
                f"{self.length + count} tokens are longer than the model's context of {self.limit}: "
                "shorten the text or the answer"
            )
        return torch.arange(self.length, self.length + count, device=self._keys[0].device).unsqueeze(0)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule = PLAIN) -> Tensor:
        """Adds the new k and v (B, K, T, E), then attends causally by the rule: q (B, H, T, E) -> (B, H, T, E)."""
        keys, values = self._extend(layer, k, v)
        return _attend_one(q, keys, values, rule) if q.shape[2] == 1 else attention(q, keys, values, rule=rule)

    def _extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the new k and v (B, K, T, E) -> all keys and values so far, (B, K, S, E)."""
        past, length = self._lengths[layer], self._lengths[layer] + k.shape[2]
        self._reserve(layer, length)
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, past:length], values[:, :, past:length] = k, v
        self._lengths[layer] = length
        return keys[:, :, :length], values[:, :, :length]

    def room(self, layer: int, count: int) -> Room | None:
        """Each sequence's buffer as its one block, with room for `count` more positions, which count as filled; see
        models.attention.Cache."""
        past = self._lengths[layer]
        self._reserve(layer, past + count)
        self._lengths[layer] = past + count
        keys, pages = self._keys[layer], self._pages.get(layer)
        if pages is None or pages.keys is not keys:
            pages = self._pages[layer] = Pages(keys, self._values[layer])
        return Room(pages, self._same_for_all_layers(len(keys), count, past))

    def _same_for_all_layers(self, size: int, count: int, past: int) -> Segments:
        """One object for a whole step, so that what is made from it is made once."""
        known = self._segments
        if known is None or known.counts != [count] * size or known.pasts[0] != past:
            device = self._keys[0].device
            known = self._segments = Segments([count] * size, [past] * size, [[i] for i in range(size)], device)
        return known

    def reorder(self, rows: Tensor) -> None:
        """Makes sequence i continue what sequence rows[i] has read; rows (B',) int64 may repeat or leave out any.

        Beam search moves its beams this way, and one prompt becomes the beginning of several answers.
        """
        for buffers in (self._keys, self._values):
            buffers[:] = [buffer.index_select(0, rows) for buffer in buffers]

    def truncate(self, length: int) -> None:
        """Forgets all positions from `length` on."""
        self._lengths = [min(length, held) for held in self._lengths]

    def _reserve(self, layer: int, length: int) -> None:
        """Makes room for `length` positions in one layer."""
        if length <= self._keys[layer].shape[2]:
            return
        for buffers in (self._keys, self._values):
            old = buffers[layer]
            capacity = min(max(length, 2 * old.shape[2]), max(length, self.limit))
            buffers[layer] = old.new_empty(*old.shape[:2], capacity, old.shape[3])
            buffers[layer][:, :, : old.shape[2]] = old


class LatentCache(DenseCache):
    """One vector a token for all heads: the latent one and the turned key behind it, as `LatentAttention` shares them.

    The values are the first numbers of the keys, so that only keys are kept.
    """

    def _sizes(self, config: ModelConfig) -> tuple[int, int, int]:
        assert config.latent_attention is not None
        return 1, config.latent_attention.kv_lora_rank + config.latent_attention.qk_rope_head_dim, 0

    def room(self, layer: int, count: int) -> Room | None:
        return None

    def _extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        keys, _ = super()._extend(layer, k, v[..., :0])
        return keys, keys[..., : v.shape[-1]]


def cache_for(
    config: ModelConfig,
    *,
    batch_size: int = 1,
    capacity: int = 256,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> DenseCache:
    """The cache that the model's attention needs; arguments as of `DenseCache`."""
    kind = LatentCache if config.latent_attention else DenseCache
    return kind(config, batch_size=batch_size, capacity=capacity, dtype=dtype, device=device)


def _attend_one(q: Tensor, keys: Tensor, values: Tensor, rule: AttentionRule) -> Tensor:
    """One query per head, (B, H, 1, E), attends to all keys (B, K, S, E), or to the window's.

    Nothing is masked, so the H/K heads that share keys can stand where query positions do: each key is read once for
    all of them. Not so where heads score differently.
    """
    if 0 < rule.window < keys.shape[2]:
        keys, values = keys[:, :, -rule.window :], values[:, :, -rule.window :]
    if rule.slopes is not None or rule.sinks is not None:
        return attention(q, keys, values, causal=False, rule=rule)
    grouped = q.view(q.shape[0], keys.shape[1], -1, q.shape[3])  # (B, K, H/K, E)
    return attention(grouped, keys, values, causal=False, rule=rule).view(*q.shape[:3], -1)
