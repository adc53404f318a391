"""The tensors of a GGUF file under our names, and back, without unpacking a block: rows are whole blocks, so fused
matrices are cut and permuted rows put back by indexing.

llama.cpp rotates neighbours (2i, 2i + 1) in the architectures that came from Meta's own files, so converters reorder
each head's rows of q and k (`LlamaModel.permute` in convert_hf_to_gguf.py). Gemma's norms are stored as 1 + w. The
tensors of latent attention: latent_names.py. Left out: writing each expert as a tensor of its own, as files did before
April 2024; they are read.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.hub.gguf.architectures import Architecture
from vesalius.hub.gguf.latent_names import JOINED, KEYS, VALUES, half_of, half_shape, joined_halves, turned_rows
from vesalius.kernels.block_formats import FORMATS, BlockTensor
from vesalius.models.config import ModelConfig
from vesalius.models.weight_map import gate_up_rows, qkv_rows

Blocks = Mapping[str, BlockTensor]

EXPERT_GATE = "shared_expert_gate.weight"
"""One row: a matrix here, a vector in files."""

_ONE_EXPERT = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down))\.(\d{1,6})\.weight")

_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<stem>.+)\.(?P<kind>weight|bias)")

IGNORED = re.compile(r"rope_freqs\.weight|rope_factors_(short|long)\.weight|blk\.\d+\.attn_rot_embd\..*")
"""What follows from the config or has become a part of it."""


def to_ours(stored: Blocks, architecture: Architecture, config: ModelConfig) -> dict[str, BlockTensor]:
    """Our names and row order. UserError for a tensor that the architecture has no place for."""
    ours: dict[str, BlockTensor] = {}
    for name, tensor in joined_halves(_stacked_experts(stored), config).items():
        if IGNORED.fullmatch(name):
            continue
        targets = _our_names(name, architecture)
        rows = _fused_rows(len(targets), name, config)
        if rows and sum(rows) != tensor.shape[0]:
            raise UserError(f"{name} has {tensor.shape[0]} rows, expected {sum(rows)}: the file is damaged")
        parts = [_pick(tensor, part) for part in _slices(rows)] if rows else [tensor]
        for target, part in zip(targets, parts, strict=True):
            ours[target] = _as_ours(target, part, architecture, config)
    return ours


def stored_names(ours: Collection[str], architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Name in a file -> the tensors of ours that it holds. UserError for one of ours that no name holds."""
    layers = sorted({int(match[1]) for name in ours if (match := re.search(r"\.layers\.(\d+)\.", name))})
    found: dict[str, tuple[str, ...]] = {}
    for stem, targets in architecture.stems.items():
        for layer in layers if "{}" in stem else [0]:
            for kind in ("weight", "bias"):
                names = tuple(f"{target.format(layer)}.{kind}" for target in targets)
                if all(name in ours for name in names):
                    found[f"{stem.format(layer)}.{kind}"] = names
    for stem, target in architecture.exact.items():
        found |= {stem.format(i): (target.format(i),) for i in layers if target.format(i) in ours}
    for name in [name for name in found if name.endswith(JOINED)]:
        parts = found.pop(name)
        found |= {name.replace(JOINED, half): parts for half in (KEYS, VALUES)}
    if lost := sorted(set(ours) - {name for names in found.values() for name in names}):
        raise UserError(f"llama.cpp has no place for {lost[0]} in this architecture: export a directory in its place")
    return found


def stored_shape(name: str, shapes: Sequence[tuple[int, ...]], config: ModelConfig) -> tuple[int, ...]:
    """The shape in a file of what holds tensors of ours of these shapes."""
    if half := half_shape(name, config):
        return half
    if name.endswith("ffn_gate_inp_shexp.weight"):
        return shapes[0][1:]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def to_stored(name: str, ours: Blocks, architecture: Architecture, config: ModelConfig) -> BlockTensor:
    """One tensor of a file from the tensors of ours that it holds, all of one format: the inverse of `to_ours`. Halves
    of latent attention's matrix are made of float32."""
    if half_shape(name, config):
        (weight,) = ours.values()
        return BlockTensor.quantise(half_of(name, weight.dequantise(), config), "f32")
    parts = [_as_stored(name, tensor, architecture, config) for name, tensor in ours.items()]
    if len(parts) == 1:
        return parts[0]
    blocks = torch.cat([_by_rows(part) for part in parts])
    return BlockTensor.of(parts[0].format, blocks if len(parts[0].shape) > 1 else blocks.flatten())


def _stacked_experts(stored: Blocks) -> dict[str, BlockTensor]:
    """The tensors of a file with those of single experts, as old files have them, stacked. UserError where one is
    missing or differs from the others."""
    stacks: dict[str, dict[int, BlockTensor]] = {}
    rest = dict(stored)
    for name in stored:
        if match := _ONE_EXPERT.fullmatch(name):
            stacks.setdefault(f"{match[1]}_exps.weight", {})[int(match[2])] = rest.pop(name)
    for name, experts in stacks.items():
        kinds = {(tensor.format, tensor.shape) for tensor in experts.values()}
        if len(kinds) > 1 or sorted(experts) != list(range(len(experts))) or name in rest:
            raise UserError(f"the experts of {name} are not all there, or not all alike: the file is damaged")
        rest[name] = BlockTensor.of(kinds.pop()[0], torch.stack([experts[i].blocks for i in range(len(experts))]))
    return rest


def _our_names(name: str, architecture: Architecture) -> list[str]:
    match = _NAME.fullmatch(name)
    if match and (target := architecture.exact.get(re.sub(r"^blk\.\d+\.", "blk.{}.", name))):
        return [target.format(match["layer"])]
    layer = match["layer"] if match else None
    stem = f"blk.{{}}.{match['stem']}" if match and layer is not None else match["stem"] if match else ""
    if match is None or stem not in architecture.stems:
        raise UserError(f"the file has a tensor {name!r}, for which its architecture has no place: it cannot be opened")
    return [f"{target.format(layer)}.{match['kind']}" for target in architecture.stems[stem]]


def _fused_rows(parts: int, name: str, config: ModelConfig) -> tuple[int, ...]:
    """How many rows each of the fused matrices has; () where only one is stored."""
    if parts == 1:
        return ()
    return qkv_rows(config) if ".attn_qkv." in name else gate_up_rows(config)


def _slices(rows: tuple[int, ...]) -> Iterator[slice]:
    start = 0
    for count in rows:
        yield slice(start, start + count)
        start += count


def _as_ours(name: str, tensor: BlockTensor, architecture: Architecture, config: ModelConfig) -> BlockTensor:
    if heads := _rotated_heads(name, architecture, config):
        return _pick(tensor, _halves_first(heads, config.head_dim, tensor.shape[0], name))
    if (rows := turned_rows(name, tensor.shape[0], config)) is not None:
        return _pick(tensor, rows)
    if name.endswith(EXPERT_GATE):
        return BlockTensor.of(tensor.format, tensor.blocks.view(1, -1))
    if config.norm_offset and name.endswith("norm.weight"):
        return BlockTensor.quantise(tensor.dequantise() - 1, "f32")
    return tensor


def _as_stored(name: str, tensor: BlockTensor, architecture: Architecture, config: ModelConfig) -> BlockTensor:
    if heads := _rotated_heads(name, architecture, config):
        order = _halves_first(heads, config.head_dim, tensor.shape[0], name)
        return _pick(tensor, order.argsort())
    if (rows := turned_rows(name, tensor.shape[0], config)) is not None:
        return _pick(tensor, rows.argsort())
    if name.endswith(EXPERT_GATE):
        return BlockTensor.of(tensor.format, tensor.blocks[0])
    if config.norm_offset and name.endswith("norm.weight"):
        return BlockTensor.quantise(tensor.dequantise() + 1, "f32")
    return tensor


def _rotated_heads(name: str, architecture: Architecture, config: ModelConfig) -> int:
    """How many heads of permuted rows a tensor has; 0 where its rows stand as they are."""
    if not architecture.permuted:
        return 0
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return heads.get(name.split(".")[-2], 0)


def _halves_first(heads: int, head_dim: int, rows: int, name: str) -> Tensor:
    """For each of our rows the stored row: stored (H, E/2, 2) in pairs, ours (H, 2, E/2) in halves."""
    if rows != heads * head_dim:
        raise UserError(f"{name} has {rows} rows, expected {heads} heads of {head_dim}: the file is damaged")
    return torch.arange(rows).view(heads, head_dim // 2, 2).transpose(1, 2).flatten()


def _pick(tensor: BlockTensor, rows: Tensor | slice) -> BlockTensor:
    """Some rows of a matrix, or numbers of a vector, in another order."""
    picked = _by_rows(tensor)[rows]
    return BlockTensor.of(tensor.format, picked if len(tensor.shape) > 1 else picked.flatten())


def _by_rows(tensor: BlockTensor) -> Tensor:
    """(rows, bytes); the rows of a vector are its numbers."""
    if len(tensor.shape) == 1 and FORMATS[tensor.format].block_size != 1:
        raise UserError(f"a vector is stored as {tensor.format}, expected f32, f16 or bf16: the file is damaged")
    return tensor.blocks.view(tensor.shape[0], -1)
