"""Tiny models with quantised matrices: drawn once, and built with them or with the floats that they stand for."""

import torch
from torch import Tensor, nn

from vesalius.compress.quantised_linear import QuantisedModule, install_blocks
from vesalius.infer.cache import DenseCache
from vesalius.infer.paged_cache import BatchCache, BlockPool
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.packing import pack
from vesalius.kernels.paged_attention import Segments
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

TINY = ModelConfig(
    vocab_size=64,
    hidden_size=96,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=160,
    max_position_embeddings=256,
)
SHAPES: dict[str, dict] = {
    "grouped heads": {},
    "one head, odd widths": {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "hidden_size": 32},
    "qk-norm": {"qk_norm": "head"},
    "biases": {"attention_bias": True, "attention_output_bias": True},
    "window": {"sliding_window": 20},
    "half of a head turns": {"partial_rotary_factor": 0.5},
    "no positions": {"position": "none"},
    "one layer without positions": {"layers_without_rope": (1,)},
    "multipliers": {"residual_multiplier": 0.3, "attention_multiplier": 0.1},
}


def drawn(config: ModelConfig, format: str, others: dict[str, str]) -> tuple[Transformer, dict[str, BlockTensor]]:
    """A model, and its layers' matrices in blocks; `others` are the formats of those whose names end so."""
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3 if parameter.dim() < 2 else 0.15, generator=generator)
    names = [n for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n and "lm_head" not in n]
    formats = {n: next((f for end, f in others.items() if n.endswith(end)), format) for n in names}
    return model, {n: BlockTensor.quantise(model.get_parameter(n).detach(), formats[n]) for n in names}


def quantised(config: ModelConfig, format: str = "q4_1", **others: str) -> Transformer:
    """The model as this machine has it: `others` as keywords, for example v_proj="q8_0"."""
    model, blocks = drawn(config, format, {f"{name}.weight": other for name, other in others.items()})
    install_blocks(model, blocks)
    return model


def quantised_for_torch(config: ModelConfig, format: str = "q4_1", **others: str) -> Transformer:
    """The same as a machine without a compiler has it."""
    model = quantised(config, format, **others)
    for layer in model.modules():
        if isinstance(layer, QuantisedModule):
            layer.matrix = pack(layer.blocks(), tiles=False)
    return model


def in_float(config: ModelConfig, format: str = "q4_1", **others: str) -> Transformer:
    """The same, computed in float32 throughout."""
    model, blocks = drawn(config, format, {f"{name}.weight": other for name, other in others.items()})
    model.load_state_dict({name: tensor.dequantise() for name, tensor in blocks.items()}, strict=False)
    return model


def tokens_of(config: ModelConfig, count: int) -> Tensor:
    """(1, count), the same each time."""
    return torch.randint(config.vocab_size, (1, count), generator=torch.Generator().manual_seed(2))


def hidden_states(model: Transformer, chunks: list[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The decoder's output, chunk by chunk over one cache of one buffer: (1, T, D)."""
    cache, tokens = DenseCache(model.config, capacity=8, dtype=dtype), tokens_of(model.config, sum(chunks))
    with torch.no_grad():
        return torch.cat([model.model(t, cache.positions(t.shape[1]), cache) for t in tokens.split(chunks, dim=1)], 1)


def paged_states(
    model: Transformer, chunks: list[int], table: list[int], dtype: torch.dtype = torch.float32, size: int = 4
) -> Tensor:
    """The same over a pool of blocks, of which `table` names those that hold the text. What nobody wrote is NaN."""
    pool, past, states = BlockPool(model.config, max(table) + 1, size, dtype), 0, []
    for pages in pool.pages:
        for part in (pages.keys, pages.values):
            part.fill_(0 if dtype == torch.int8 else torch.nan)
    with torch.no_grad():
        for tokens in tokens_of(model.config, sum(chunks)).split(chunks, dim=1):
            count = tokens.shape[1]
            cache = BatchCache(pool, Segments([count], [past], [table], pool.device))
            states.append(model.model(tokens, torch.arange(past, past + count).unsqueeze(0), cache))
            past += count
    return torch.cat(states, 1)


def relative_error(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())
