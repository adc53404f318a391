"""A model as one GGUF file that llama.cpp opens: metadata, tokenizer, chat template, and weights in a chosen format.

The conventions are those of llama.cpp's quantiser (src/llama-quant.cpp): vectors, norms, routers, biases and position
tables stay f32; with a format of at most 5 bits the embedding and the head, on which quality hangs most, are q6_k; a
matrix whose rows the format cannot hold takes one that can (`INSTEAD`). Weights that are quantised already in the
format that is asked for keep their blocks bit for bit; others go through float32, one matrix at a time.
Left out: an importance matrix, and llama.cpp's mixtures (Q4_K_M), which give some layers more bits.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.hub.gguf.architectures import ARCHITECTURES, Architecture
from vesalius.hub.gguf.latent_names import half_shape
from vesalius.hub.gguf.names import stored_names, stored_shape, to_stored
from vesalius.hub.gguf.settings_writing import write_config
from vesalius.hub.gguf.writer import PlannedTensor, write_gguf
from vesalius.hub.unpacking import Weight, weights_of
from vesalius.kernels.block_formats import FORMATS, BlockTensor
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.gguf.writing import gguf_metadata_of
from vesalius.tokenizers.tokenizer import Tokenizer

FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k": 11,
    "q4_k": 14,
    "q5_k": 16,
    "q6_k": 18,
    "bf16": 32,
}
"""The formats that can be written, with llama.cpp's number for a file that is mostly of one (`llama_ftype`)."""

FEW_BITS = ("q2_k", "q3_k", "q4_0", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k")
TABLES = ("token_embd.weight", "output.weight")
POSITIONS = "position_embd.weight"
FLOATS = (".bias", "ffn_gate_inp.weight")
"""Endings of what llama.cpp only reads as f32: experts' biases stand in matrices."""
INSTEAD = {
    "q2_k": "q4_0",
    "q3_k": "q4_0",
    "q4_k": "q4_1",
    "q5_k": "q5_1",
    "q6_k": "q8_0",
} | dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0"), "f16")
"""What a matrix takes whose rows are no multiple of the format's block."""

QUANTISATION_VERSION = 2


def export_gguf(
    path: Path | str, model: Transformer, tokenizer: Tokenizer, *, dtype: str = "q8_0"
) -> tuple[str, Mapping[str, int]]:
    """Writes the whole file or nothing; gives the architecture, and the number of tensors in each format.

    UserError for an unknown `dtype`, or what llama.cpp has no architecture or tokenizer for.
    """
    if dtype not in FILE_TYPES:
        raise UserError(f"dtype {dtype!r} is not a format that can be written, {nearest(dtype, FILE_TYPES)}")
    config = model.config
    written = write_config(config)
    planned = _plan(weights_of(model), ARCHITECTURES[written.name], config, dtype)
    factors = {name: BlockTensor.quantise(values, "f32") for name, values in written.factors.items()}
    general = _general(Path(path), dtype)
    write_gguf(path, written.metadata | general | gguf_metadata_of(tokenizer, config.vocab_size), planned | factors)
    return written.name, Counter(tensor.format for tensor in [*planned.values(), *factors.values()])


def choose_format(name: str, shape: tuple[int, ...], dtype: str) -> str:
    """The format of one stored tensor.

    >>> choose_format("blk.0.ffn_up.weight", (96, 64), "q4_k"), choose_format("output.weight", (96, 256), "q4_0")
    ('q4_1', 'q6_k')
    """
    if len(shape) == 1 or name == POSITIONS or name.endswith(FLOATS):
        return "f32"
    chosen = "q6_k" if dtype in FEW_BITS and name in TABLES else dtype
    while shape[-1] % FORMATS[chosen].block_size:
        chosen = INSTEAD[chosen]
    return chosen


def _plan(
    weights: Mapping[str, Weight], architecture: Architecture, config: ModelConfig, dtype: str
) -> dict[str, BlockTensor | PlannedTensor]:
    """Name in the file -> how its tensor is made when it is its turn to be written."""
    planned: dict[str, BlockTensor | PlannedTensor] = {}
    for name, parts in stored_names(weights, architecture).items():
        shape = stored_shape(name, [weights[part].shape for part in parts], config)
        format = choose_format(name, shape, dtype)
        ours = {part: weights[part] for part in parts}
        planned[name] = PlannedTensor(format, shape, partial(_make, name, ours, format, architecture, config))
    return planned


def _make(
    name: str, ours: Mapping[str, Weight], format: str, architecture: Architecture, config: ModelConfig
) -> BlockTensor:
    whole = half_shape(name, config) is None  # the rows of half a matrix are others than those it is made of
    blocks = {part: weight.blocks(format if whole else "f32") for part, weight in ours.items()}
    made = to_stored(name, blocks, architecture, config)
    return made if whole else BlockTensor.quantise(made.dequantise(), format)


def _general(path: Path, dtype: str) -> dict[str, Any]:
    return {
        "general.type": "model",
        "general.name": path.stem,
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": QUANTISATION_VERSION,
    }
