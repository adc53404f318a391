"""A model written for others: one GGUF file for llama.cpp, or a Hugging Face directory for everything else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from vesalius.core.errors import UserError, nearest
from vesalius.core.files import read_json
from vesalius.hub.directory import CONFIG, save_model
from vesalius.hub.gguf.export import FILE_TYPES, export_gguf
from vesalius.hub.open import GGUF
from vesalius.hub.unpacking import unpacked
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
"""What a Hugging Face directory holds."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written. `tensors` is how many there are in each format."""

    path: Path
    architecture: str
    bytes: int
    tensors: Mapping[str, int]


def export_model(path: Path | str, model: Transformer, tokenizer: Tokenizer, *, dtype: str | None = None) -> Exported:
    """Writes a GGUF file where `path` ends in .gguf, else a Hugging Face directory, each whole or not at all.

    dtype  of the weights: f32, f16, bf16, and for GGUF also q8_0 (there the default) and all of gguf.export.FILE_TYPES;
           a directory keeps, without it, the precision that the weights have here
    UserError for what the format cannot say, and for a directory that holds files already.
    """
    path = Path(path)
    try:
        return _export(path, model, tokenizer, dtype)
    except OSError as error:  # a full disk has been told by name
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from error


def _export(path: Path, model: Transformer, tokenizer: Tokenizer, dtype: str | None) -> Exported:
    if path.suffix == GGUF:
        if path.is_dir():
            raise UserError(f"{path} is a directory, expected the name of a file to write: choose another")
        architecture, tensors = export_gguf(path, model, tokenizer, dtype=dtype or "q8_0")
        return Exported(path=path, architecture=architecture, bytes=path.stat().st_size, tensors=tensors)
    if dtype is not None and dtype not in DTYPES:
        other = "only a .gguf file holds it" if dtype in FILE_TYPES else nearest(dtype, DTYPES)
        raise UserError(f"dtype {dtype!r} is none of a Hugging Face directory ({', '.join(DTYPES)}): {other}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: choose a new directory, or a name that ends in {GGUF}")
    plain = unpacked(model, DTYPES[dtype] if dtype else None)
    save_model(path, plain, tokenizer)
    names = {value: name for name, value in DTYPES.items()}
    return Exported(
        path=path,
        architecture=str(read_json(path / CONFIG)["model_type"]),
        bytes=sum(file.stat().st_size for file in path.iterdir()),
        tensors={names[plain.model.embed_tokens.weight.dtype]: len(list(plain.parameters()))},
    )
