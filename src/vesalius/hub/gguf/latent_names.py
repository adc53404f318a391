"""The tensors of latent attention (DeepSeek) in a GGUF file, whose form differs from ours in two ways.

Rotary positions turn neighbouring rows in files and rows half a head apart here, so the turning rows of the queries and
of the shared key change places: rows are whole blocks, nothing is unpacked.

Files from before April 2025 hold `attn_kv_b`, our kv_b_proj. Today's hold its two halves: `attn_k_b`, transposed in
each head, and `attn_v_b`. A transposed matrix has other blocks, so these halves are joined as floats; kv_b_proj stays
one anyway (models/latent_attention).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.kernels.block_formats import BlockTensor
from vesalius.models.config import ModelConfig

JOINED, KEYS, VALUES = "attn_kv_b.weight", "attn_k_b.weight", "attn_v_b.weight"

_HALF = re.compile(r"(blk\.\d+\.)attn_[kv]_b\.weight")


def joined_halves(stored: Mapping[str, BlockTensor], config: ModelConfig) -> dict[str, BlockTensor]:
    """The tensors of a file with every pair of halves as one matrix. UserError where one has no other half."""
    joined: dict[str, BlockTensor] = {}
    for name, tensor in stored.items():
        match = _HALF.fullmatch(name)
        if config.latent_attention is None or match is None:
            joined[name] = tensor
        elif name.endswith(KEYS):
            joined[match[1] + JOINED] = BlockTensor.quantise(_joined(stored, match[1], config), "f32")
        elif match[1] + KEYS not in stored:
            raise UserError(f"the file has {name} without {match[1] + KEYS}: it is damaged, fetch it again")
    return joined


def half_shape(name: str, config: ModelConfig) -> tuple[int, int, int] | None:
    """The shape of one half in a file, (H, R, N) of keys and (H, V, R) of values; None for any other tensor."""
    latent = config.latent_attention
    if latent is None or not _HALF.fullmatch(name):
        return None
    heads = config.num_attention_heads
    if name.endswith(KEYS):
        return heads, latent.kv_lora_rank, latent.qk_nope_head_dim
    return heads, latent.v_head_dim, latent.kv_lora_rank


def half_of(name: str, weight: Tensor, config: ModelConfig) -> Tensor:
    """One half of kv_b_proj (H · (N + V), R), as `half_shape` says."""
    assert config.latent_attention is not None
    heads = weight.unflatten(0, (config.num_attention_heads, -1))  # (H, N + V, R)
    keys, values = heads.split((config.latent_attention.qk_nope_head_dim, config.latent_attention.v_head_dim), dim=1)
    return (keys.mT if name.endswith(KEYS) else values).contiguous()


def turned_rows(name: str, rows: int, config: ModelConfig) -> Tensor | None:
    """For each row of ours the stored row, where rows change places; None where they don't. UserError for another
    number of rows than the config implies."""
    latent = config.latent_attention
    if latent is None:
        return None
    kept, turning, last = latent.qk_nope_head_dim, latent.qk_rope_head_dim, name.split(".")[-2]
    if last in ("q_proj", "q_b_proj"):
        heads = config.num_attention_heads
    elif last == "kv_a_proj_with_mqa":
        heads, kept = 1, latent.kv_lora_rank
    else:
        return None
    if rows != heads * (kept + turning):
        raise UserError(f"{name} has {rows} rows, expected {heads} of {kept} + {turning}: the file is damaged")
    pairs = torch.arange(kept, kept + turning).view(-1, 2).T.flatten()
    order = torch.cat([torch.arange(kept), pairs])  # within a head
    return (torch.arange(heads).unsqueeze(1) * (kept + turning) + order).flatten()


def _joined(stored: Mapping[str, BlockTensor], layer: str, config: ModelConfig) -> Tensor:
    """kv_b_proj (H · (N + V), R) float32 of the layer whose tensors' names begin so."""
    for name in (layer + KEYS, layer + VALUES):
        found = stored[name].shape if name in stored else None
        if found != half_shape(name, config):
            raise UserError(f"{name} is {found}, expected {half_shape(name, config)} by the file's metadata")
    keys, values = stored[layer + KEYS].dequantise(), stored[layer + VALUES].dequantise()
    return torch.cat([keys.mT, values], dim=1).flatten(0, 1)
