"""How much memory an engine takes for keys and values."""

import os

import torch

from vesalius.core.errors import UserError
from vesalius.infer.options import EngineOptions
from vesalius.infer.paged_cache import BlockPool, Sizes
from vesalius.models.config import ModelConfig

CONTEXTS = 2
"""How many whole contexts there is room for where nobody says how much memory to take."""

FEWEST = 64
"""Blocks at least, in that case: beams of a short context need more than it alone does."""

SHARE = 4
"""One part in so many of the memory is taken at most, in that case."""


def pool_of(config: ModelConfig, options: EngineOptions, dtype: torch.dtype, device: torch.device) -> BlockPool:
    """The pool of an engine whose model computes in `dtype`. UserError where the memory does not hold one block.

    On a CPU what is never written takes no memory.
    """
    kept = dtype if options.cache_dtype == "model" else getattr(torch, options.cache_dtype)
    block = options.block_size * Sizes.of(config).bytes_a_position(kept)
    if options.cache_bytes is not None:
        count = options.cache_bytes // block
        if count < 1:
            raise UserError(
                f"cache_bytes = {options.cache_bytes}, but a block of {options.block_size} positions takes {block}: "
                "give more"
            )
    else:
        context = -(-config.max_position_embeddings // options.block_size)
        count = max(1, min(max(CONTEXTS * context, FEWEST), _memory(device) // SHARE // block))
    return BlockPool(config, count, options.block_size, kept, device)


def _memory(device: torch.device) -> int:
    """Bytes of a device, or of this machine."""
    if device.type == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return free
