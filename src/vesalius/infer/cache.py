"""The key/value cache: attention reads all earlier tokens without computing them again.
Pope et al. 2022, arXiv:2211.05102, section 3.

Keys and values of each layer stand in one (B, K, S, E) buffer with room to spare: a step writes its rows in place,
and a full buffer is copied into one twice as long, so the copies of a whole generation cost less than two copies of
its final size. The K heads are never repeated for the H query heads that share them. Left out: rows of different
lengths, pages, quantised values; they are other caches behind the same `attend`.
"""

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.kernels.attention import attention
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
        shape = (batch_size, config.num_key_value_heads, min(capacity, self.limit), config.head_dim)
        layers = range(config.num_hidden_layers)
        self._keys = [torch.empty(shape, dtype=dtype, device=device) for _ in layers]
        self._values = [torch.empty(shape, dtype=dtype, device=device) for _ in layers]
        self._lengths = [0 for _ in layers]

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

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Adds the new k and v (B, K, T, E), then attends causally: q (B, H, T, E) -> (B, H, T, E)."""
        past, length = self._lengths[layer], self._lengths[layer] + k.shape[2]
        self._reserve(layer, length)
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, past:length], values[:, :, past:length] = k, v
        self._lengths[layer] = length
        keys, values = keys[:, :, :length], values[:, :, :length]  # (B, K, S, E)
        return _attend_one(q, keys, values) if q.shape[2] == 1 else attention(q, keys, values)

    def _reserve(self, layer: int, length: int) -> None:
        """Makes room for `length` positions in one layer."""
        if length <= self._keys[layer].shape[2]:
            return
        for buffers in (self._keys, self._values):
            old = buffers[layer]
            capacity = min(max(length, 2 * old.shape[2]), max(length, self.limit))
            buffers[layer] = old.new_empty(*old.shape[:2], capacity, old.shape[3])
            buffers[layer][:, :, : old.shape[2]] = old


def _attend_one(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query per head, (B, H, 1, E), attends to all keys (B, K, S, E).

    Nothing is masked, so the H/K heads that share keys can stand where query positions do: each key is read once for
    all of them.
    """
    grouped = q.view(q.shape[0], keys.shape[1], -1, q.shape[3])  # (B, K, H/K, E)
    return attention(grouped, keys, values, causal=False).view(q.shape)
