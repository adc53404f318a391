"""A GGUF file as a model: config and tokenizer from its metadata, weights in the blocks that they are stored in.

Nothing is unpacked as a whole: a quantised matrix becomes a QuantisedLinear, which holds it at its stored size; only
vectors and matrices that are stored as f32, f16 or bf16 become plain parameters, and the two kinds of matrix that the
model reads as floats (`FLOATS`). A tied head shares the embedding's blocks. mxfp4 becomes q5_0, which holds the same
numbers and has products.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vesalius.compress.fused_layers import fuse_layers
from vesalius.compress.offload import Offloading
from vesalius.compress.quantised_linear import QuantisedEmbedding, QuantisedLinear, install_blocks
from vesalius.compress.torch_layers import shorten_layers
from vesalius.core.errors import UserError
from vesalius.hub.blank import blank_model
from vesalius.hub.by_layer import by_layer, part_of
from vesalius.hub.gguf.names import to_ours
from vesalius.hub.gguf.parts import read_parts
from vesalius.hub.gguf.reader import GGUFFile
from vesalius.hub.gguf.settings import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS, architecture_of, read_config
from vesalius.hub.pages import MappedPages
from vesalius.hub.unpacking import kept_buffers
from vesalius.kernels.block_formats import FORMATS, BlockTensor
from vesalius.kernels.block_formats.mxfp4 import mxfp4_as_q5_0
from vesalius.kernels.packing import packed_bytes
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.tokenizer import Tokenizer

HEAD = "lm_head.weight"
FLOATS = ("mlp.gate.weight", "self_attn.kv_b_proj.weight")
"""Endings of a router's matrix, and of the one that latent attention absorbs into others."""

WITH_PRODUCT = {"mxfp4": "q5_0"}
"""A format that holds the same numbers and can be multiplied with."""


def open_gguf(
    path: Path | str, *, dtype: torch.dtype = torch.float32, weight_bytes: int | None = None
) -> tuple[Transformer, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer; `dtype` is that of what is not quantised. Of a model in several
    files, any. `weight_bytes` is the memory for its weights: packed layers that do not fit are pages of files.

    UserError that says what is wrong with the file, or what it needs that we do not have, and as of compress/offload.
    """
    file = read_parts(path)
    config = config_of(file.metadata, file.tensors)
    model = build_model(file, config, dtype, where=str(path), weight_bytes=weight_bytes)
    tokenizer = tokenizer_from_gguf(file.metadata)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{path} has {tokenizer.vocab_size} tokens and {config.vocab_size} embeddings: the file is damaged"
        )
    return model, tokenizer


def config_of(metadata: Mapping[str, object], tensors: Mapping[str, BlockTensor]) -> ModelConfig:
    """The config of a file from its metadata and from which tensors are there."""
    factors = {
        name: tensors[name].dequantise() for name in (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS) if name in tensors
    }
    return read_config(metadata, {name: tensor.shape[0] for name, tensor in tensors.items()}, factors)


def build_model(
    file: GGUFFile, config: ModelConfig, dtype: torch.dtype, *, where: str, weight_bytes: int | None = None
) -> Transformer:
    """The model with the weights of a file. UserError where one is missing, unknown or misshaped."""
    _, architecture = architecture_of(file.metadata)
    model, pages = blank_model(config), MappedPages()
    expected = by_layer({name: t.shape for name, t in model.state_dict().items()}, config.num_hidden_layers)
    if config.tie_word_embeddings:
        del expected[0][HEAD]
    groups = by_layer(file.tensors, config.num_hidden_layers)
    rest, *sizes = [sum(_bytes_of(tensor, dtype) for tensor in group.values()) for group in groups]
    offloading = Offloading(weight_bytes, rest, sizes, lies_in_file=pages.hold)
    for number, group in enumerate(groups, start=-1):
        prefix, module = part_of(model, number)
        weights = to_ours(group, architecture, config)
        _check(expected[number + 1], weights, where)
        _fill(module, {name.removeprefix(prefix): tensor for name, tensor in weights.items()}, dtype, where, pages.drop)
        del weights  # lest a layer be there twice
        if number >= 0:
            offloading.take(number, module)
        for tensor in group.values():
            pages.drop(tensor.blocks)
    if config.tie_word_embeddings:
        _tie(model)
    fuse_layers(model.eval())
    shorten_layers(model)  # what the native side has not taken
    offloading.finish(model)
    return model


def _fill(
    module: nn.Module,
    weights: Mapping[str, BlockTensor],
    dtype: torch.dtype,
    where: str,
    release: Callable[[Tensor], None],
) -> None:
    """Gives a module its weights; `release` is called with blocks that have been packed."""
    blocks = {
        name: _with_product(tensor, where)
        for name, tensor in weights.items()
        if is_quantised(tensor) and not name.endswith(FLOATS)
    }
    exact = kept_buffers(module)
    # A vector is copied, lest it keep the whole file mapped; a matrix stored as float32 stays a part of the file.
    plain = {
        name: tensor.dequantise().to(torch.float32 if name in exact else dtype, copy=len(tensor.shape) == 1)
        for name, tensor in weights.items()
        if name not in blocks
    }
    module.load_state_dict(plain, strict=False, assign=True)
    install_blocks(module, blocks, release)


def _bytes_of(tensor: BlockTensor, dtype: torch.dtype) -> int:
    """What becomes of it takes so much memory."""
    *rows, columns = tensor.shape
    if not is_quantised(tensor):
        return math.prod(tensor.shape) * dtype.itemsize
    return packed_bytes(WITH_PRODUCT.get(tensor.format, tensor.format), math.prod(rows), columns)


def is_quantised(tensor: BlockTensor) -> bool:
    """Whether several numbers share a block."""
    return FORMATS[tensor.format].block_size > 1


def _with_product(tensor: BlockTensor, where: str) -> BlockTensor:
    """The same numbers in a format that can be multiplied with."""
    if tensor.format not in WITH_PRODUCT:
        return tensor
    try:
        return BlockTensor.of(WITH_PRODUCT[tensor.format], mxfp4_as_q5_0(tensor.blocks))
    except ValueError as error:
        raise UserError(f"{where} has mxfp4 weights that cannot be ({error}): fetch it again") from error


def _tie(model: Transformer) -> None:
    embedding: nn.Module = model.model.embed_tokens
    if isinstance(embedding, QuantisedEmbedding):
        model.set_submodule("lm_head", QuantisedLinear(embedding.matrix))
    else:
        model.lm_head.weight = model.model.embed_tokens.weight  # loading has torn them apart


def _check(expected: Mapping[str, torch.Size], weights: Mapping[str, BlockTensor], where: str) -> None:
    if missing := [name for name in expected if name not in weights]:
        raise UserError(
            f"{where} lacks {missing[0]}, which its metadata implies ({len(missing)} tensors): fetch it again"
        )
    for name, tensor in weights.items():
        shape = tuple(expected[name]) if name in expected else None
        if shape != tensor.shape:
            raise UserError(f"{where}: {name} is {tensor.shape}, expected {shape} by the file's metadata")
