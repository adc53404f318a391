"""What tells a layer where its tokens stand: rotary angles, plain or scaled to longer contexts, and ALiBi slopes.

Scaled rotary positions change the frequencies only (kernels/rope turns by them). `linear` is position interpolation
(Chen et al. 2023, arXiv:2306.15595); `dynamic` enlarges the base with the length of the document; `yarn` is Peng et
al. 2023, arXiv:2309.00071, section 3.2; `llama3` is Llama 3.1's interpolation by wavelength; `longrope` is Ding et al.
2024, arXiv:2402.13753. ALiBi: Press et al. 2021, arXiv:2108.12409, section 3.

`dynamic` and `longrope` turn the whole document by frequencies that follow from its length. A cache keeps the keys as
they were turned when they were read, so an answer that grows past the border differs a little from reading the whole
text again; transformers does the same for `dynamic`, and reads again for `longrope` (`reread_at`).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vesalius.kernels.rope import angles, frequencies
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import RopeScaling

LENGTH_DEPENDENT = ("dynamic", "longrope")


class DerivedBuffers(nn.Module):
    """A module whose buffers follow from the config: never in a file, and float32 whatever the weights become."""

    def refill(self, device: torch.device | str = "cpu") -> None:
        """Computes the buffers anew."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """What `to`, `half` and the like call: the device changes, the precision doesn't."""
        super()._apply(fn, recurse)
        self.refill(next(self.buffers()).device)
        return self


class Rotary(DerivedBuffers):
    """positions (B, T) int64 -> cos and sin, each (B, 1, T, size) float32."""

    inverse_frequencies: Tensor
    long_frequencies: Tensor

    def __init__(self, size: int, theta: float, scaling: RopeScaling | None, context: int) -> None:
        """`size` coordinates of every head turn; `context` is the longest row, and the original one where `scaling`
        does not name another.
        """
        super().__init__()
        self.size, self.theta, self.scaling, self.context = size, theta, scaling, context
        self.original = (scaling and scaling.original_max_position_embeddings) or context
        self.kind = scaling.kind if scaling else "plain"
        self.attention_factor = _attention_factor(scaling, self.original) if scaling else 1.0
        device = torch.get_default_device()
        self.register_buffer("inverse_frequencies", torch.empty(0, device=device), persistent=False)
        self.register_buffer("long_frequencies", torch.empty(0, device=device), persistent=False)
        self.refill(device)

    def refill(self, device: torch.device | str = "cpu") -> None:
        with torch.device("cpu"):
            short, long = self._tables()
        self.inverse_frequencies, self.long_frequencies = short.to(device), long.to(device)

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Frequencies (size/2,) of documents within the original context and of longer ones."""
        plain, scaling = frequencies(self.size, self.theta), self.scaling
        if scaling is None or scaling.kind == "dynamic":
            return plain, plain
        if scaling.kind == "longrope":
            return plain / torch.tensor(scaling.short_factor), plain / torch.tensor(scaling.long_factor)
        if scaling.kind == "yarn":
            table = _yarn(plain, scaling, self.original, self.theta)
        elif scaling.kind == "llama3":
            table = _llama3(plain, scaling, self.original)
        else:
            table = plain / scaling.factor
        return table, table

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = angles(positions.unsqueeze(1), self._frequencies(positions))
        if self.attention_factor != 1.0:
            return cos * self.attention_factor, sin * self.attention_factor
        return cos, sin

    def _frequencies(self, positions: Tensor) -> Tensor:
        """(size/2,), or (B, 1, T, size/2) where they depend on the length."""
        if self.kind not in LENGTH_DEPENDENT:
            return self.inverse_frequencies
        lengths = document_lengths(positions).unsqueeze(1).unsqueeze(-1)  # (B, 1, T, 1)
        if self.kind == "longrope":
            return torch.where(lengths > self.original, self.long_frequencies, self.inverse_frequencies)
        assert self.scaling is not None
        factor, longer = self.scaling.factor, lengths.clamp(min=self.original).float()
        growth = (factor * longer / self.original - (factor - 1)) ** (self.size / (self.size - 2))
        exponents = torch.arange(0, self.size, 2, dtype=torch.float32, device=positions.device) / self.size
        return 1.0 / (self.theta * growth) ** exponents


def document_lengths(positions: Tensor) -> Tensor:
    """positions (B, T) -> (B, T): for each token the length of its document, so far as the document is in this row.

    >>> document_lengths(torch.tensor([[0, 1, 2, 0, 1]]))
    tensor([[3, 3, 3, 2, 2]])
    """
    document = (positions == 0).cumsum(-1)  # (B, T)
    last = positions.new_zeros(positions.shape[0], positions.shape[1] + 1)
    return last.scatter_reduce(1, document, positions, "amax").gather(1, document) + 1


def reread_at(config: ModelConfig) -> int:
    """The length from which a text must be read again from its start, since its frequencies change there; 0: never."""
    scaling = config.rope_scaling
    return scaling.original_max_position_embeddings + 1 if scaling and scaling.kind == "longrope" else 0


def turns_whole_texts(config: ModelConfig) -> bool:
    """Whether the frequencies follow from a text's length: then it is read alone and at once, and shares no keys."""
    return config.rope_scaling is not None and config.rope_scaling.kind in LENGTH_DEPENDENT


def rotary(config: ModelConfig, *, local: bool = False) -> Rotary:
    """The angles of a model's layers, or of its sliding ones where those have a base of their own."""
    head = config.latent_attention.qk_rope_head_dim if config.latent_attention else config.head_dim
    size = int(head * config.partial_rotary_factor)
    if local:
        return Rotary(size, config.rope_local_theta, None, config.max_position_embeddings)
    return Rotary(size, config.rope_theta, config.rope_scaling, config.max_position_embeddings)


def _yarn(plain: Tensor, scaling: RopeScaling, original: int, theta: float) -> Tensor:
    """Pairs that turn often within the original context stay, those that turn less than once are interpolated, and a
    ramp is between.
    """
    size = 2 * len(plain)

    def pair(turns: float) -> float:
        """The pair (a real number) that turns so often in the original context."""
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = ((torch.arange(len(plain), dtype=torch.float32) - low) / ((high - low) or 0.001)).clamp(0, 1)
    return plain / scaling.factor * ramp + plain * (1 - ramp)


def _llama3(plain: Tensor, scaling: RopeScaling, original: int) -> Tensor:
    """Wavelengths above the original context / low_freq_factor are interpolated, below / high_freq_factor kept."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = original * plain / (2 * math.pi)  # in the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * plain / scaling.factor + smooth * plain


def yarn_magnitude(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies queries and keys by so that longer contexts keep their entropy (arXiv:2309.00071, eq. 22).

    >>> yarn_magnitude(1.0)
    1.0
    """
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _attention_factor(scaling: RopeScaling, original: int) -> float:
    """What multiplies cos and sin."""
    if scaling.attention_factor:
        return scaling.attention_factor
    if scaling.kind == "yarn":
        if scaling.mscale and scaling.mscale_all_dim:
            magnitudes = [yarn_magnitude(scaling.factor, m) for m in (scaling.mscale, scaling.mscale_all_dim)]
            return magnitudes[0] / magnitudes[1]
        return yarn_magnitude(scaling.factor)
    if scaling.kind == "longrope" and scaling.factor > 1:
        return math.sqrt(1 + math.log(scaling.factor) / math.log(original))
    return 1.0


class Alibi(DerivedBuffers):
    """The slopes of the heads, (H,) float32: a geometric sequence from 2^(-8/H) for a power of two, and every other
    member of the sequence twice as long for the heads beyond one.
    """

    slopes: Tensor

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.register_buffer("slopes", torch.empty(0), persistent=False)
        self.refill(torch.get_default_device())

    def refill(self, device: torch.device | str = "cpu") -> None:
        power = 2 ** int(math.log2(self.heads))
        first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        rest = [2 ** (-4 * (2 * i + 1) / power) for i in range(self.heads - power)]
        self.slopes = torch.tensor(first + rest, dtype=torch.float32, device="cpu").to(device)


def slides(config: ModelConfig, layer: int) -> bool:
    """Whether the layer reads only the window before each token."""
    kinds: Any = config.layer_types
    return config.sliding_window > 0 and (not kinds or kinds[layer] == "sliding_attention")
