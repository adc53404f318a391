"""What a model on this disk is, without opening it: config, tokenizer, and how its weights are stored."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError
from vesalius.core.files import read_json
from vesalius.hub.directory import CONFIG
from vesalius.hub.gguf.model import config_of
from vesalius.hub.gguf.parts import read_parts
from vesalius.hub.open import GGUF, model_path
from vesalius.hub.weights import read_weights
from vesalius.models.config import ModelConfig
from vesalius.models.families import read_config
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.sentencepiece_file import open_tokenizer
from vesalius.tokenizers.tokenizer import Tokenizer

SAFETENSORS_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One stored model.

    container     "GGUF" or "Hugging Face directory"
    architecture  what the container calls it
    formats       format of the weights -> how many tensors, numbers and bytes there are in it, by falling bytes
    tokenizer     numbers and texts about it, as `describe_tokenizer` gives them
    metadata      the keys of a GGUF file in short lines, lists told by their length; none of a directory
    """

    path: Path
    container: str
    architecture: str
    config: ModelConfig
    formats: Mapping[str, Mapping[str, int]]
    tokenizer: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)


def facts_of(reference: str | Path) -> ModelFacts:
    """The facts of an alias, a hub id, a directory or a .gguf file; fetched where it is not here yet. Errors as
    `open_model` has them."""
    path = model_path(reference)
    return _of_gguf(path) if path.suffix == GGUF else _of_directory(path)


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Size of the vocabulary, special tokens, the texts that end an answer, and whether it can chat."""
    ends = set(tokenizer.eos_ids)
    return {
        "tokens": tokenizer.vocab_size,
        "special_tokens": len(tokenizer.special_tokens),
        "end_tokens": [text for text, number in tokenizer.special_tokens.items() if number in ends],
        "chat_template": tokenizer.chat_template is not None,
    }


def _of_gguf(path: Path) -> ModelFacts:
    file = read_parts(path)
    return ModelFacts(
        path=path,
        container="GGUF",
        architecture=str(file.metadata.get("general.architecture")),
        config=config_of(file.metadata, file.tensors),
        formats=_histogram((t.format, math.prod(t.shape), t.nbytes) for t in file.tensors.values()),
        tokenizer=describe_tokenizer(tokenizer_from_gguf(file.metadata)),
        metadata={_shown(key): _shown(value) for key, value in file.metadata.items()},
    )


def _of_directory(path: Path) -> ModelFacts:
    published = read_json(path / CONFIG)
    if not isinstance(published, dict):
        raise UserError(f"{path / CONFIG} must hold a JSON object, got {type(published).__name__}: fetch it again")
    weights = read_weights(path)
    dtypes = ((str(t.dtype).removeprefix("torch."), t.numel(), t.nbytes) for t in weights.values())
    return ModelFacts(
        path=path,
        container="Hugging Face directory",
        architecture=str(published.get("model_type")),
        config=read_config(published),
        formats=_histogram((SAFETENSORS_NAMES.get(name, name), numbers, size) for name, numbers, size in dtypes),
        tokenizer=describe_tokenizer(open_tokenizer(path)),
    )


def _histogram(tensors: Iterable[tuple[str, int, int]]) -> dict[str, dict[str, int]]:
    """Of format, numbers and bytes of each tensor."""
    found: dict[str, dict[str, int]] = {}
    for name, numbers, size in tensors:
        entry = found.setdefault(name, {"tensors": 0, "numbers": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["numbers"] += numbers
        entry["bytes"] += size
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def _shown(value: object) -> str:
    """A value, or a name, of a file in one short printable line."""
    if isinstance(value, list):
        return f"{len(value):,} items"
    text = repr(value) if isinstance(value, str) and not value.isprintable() else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
