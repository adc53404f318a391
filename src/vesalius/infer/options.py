"""How an engine shares one machine among many sequences."""

from dataclasses import dataclass
from typing import Any, Literal

from vesalius.core.errors import UserError
from vesalius.infer.speculative.draft import MOST_NODES

CacheDtype = Literal["model", "float32", "bfloat16", "int8"]
Preemption = Literal["recompute", "swap"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """UserError where a setting is out of its range.

    weight_bytes    memory for the model's weights; layers that do not fit are pages of mapped files. None: all are kept
    block_size      positions of a block of keys and values
    cache_bytes     memory for keys and values; None: for one whole context, at most a quarter of the memory
    cache_dtype     what they are kept in; "model": what the model computes in
    max_running     sequences of one step at most
    step_tokens     tokens that one step reads at most: a longer prompt is read in pieces, between which others write on
    prefix_caching  whether the blocks of an earlier text serve a later one that begins alike
    preemption      what becomes of a sequence whose blocks others need: read again later, or put aside
    swap_bytes      memory for what is put aside; where it is full, sequences are read again
    swap_file       where that memory is a file, or the directory of one without a name; None: in memory
    cold_bytes      of a file for blocks of earlier texts that had to make room for others; 0: they are computed again
    cold_file       that file, or the directory of one without a name; None: in the cache's directory
    speculation     who guesses the next tokens, so that a step may write several: ngram, draft:MODEL, early_exit:LAYERS
                    or heads:DIRECTORY (infer/speculative); None: nobody
    speculated      tokens that are guessed at once, at most
    """

    weight_bytes: int | None = None
    block_size: int = 32
    cache_bytes: int | None = None
    cache_dtype: CacheDtype = "model"
    max_running: int = 64
    step_tokens: int = 512
    prefix_caching: bool = True
    preemption: Preemption = "recompute"
    swap_bytes: int = 1 << 28
    swap_file: str | None = None
    cold_bytes: int = 0
    cold_file: str | None = None
    speculation: str | None = None
    speculated: int = 7

    def __post_init__(self) -> None:
        for name in ("block_size", "max_running", "step_tokens", "speculated"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "a whole number from 1")
        for name in ("cache_bytes", "weight_bytes"):
            value = getattr(self, name)
            _check(name, value, value is None or value > 0, "a number of bytes above 0, or None")
        _check("swap_bytes", self.swap_bytes, self.swap_bytes >= 0, "a number of bytes from 0")
        _check("cold_bytes", self.cold_bytes, self.cold_bytes >= 0, "a number of bytes from 0")
        _check("speculated", self.speculated, self.speculated <= MOST_NODES, f"a whole number from 1 to {MOST_NODES}")
        dtypes, ways = ("model", "float32", "bfloat16", "int8"), ("recompute", "swap")
        _check("cache_dtype", self.cache_dtype, self.cache_dtype in dtypes, " or ".join(dtypes))
        _check("preemption", self.preemption, self.preemption in ways, " or ".join(ways))


def _check(name: str, value: Any, valid: bool, expected: str) -> None:
    if not valid:
        raise UserError(f"{name} = {value!r}, expected {expected}")
