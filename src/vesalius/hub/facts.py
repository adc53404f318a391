"""What a model on this disk is, without opening it: config, tokenizer, and how its weights are stored."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError
from vesalius.core.files import read_json
from vesalius.hub.directory import CONFIG
from vesalius.hub.gguf.model import config_of
from vesalius.hub.gguf.reader import read_gguf
from vesalius.hub.open import GGUF, model_path
from vesalius.hub.weights import read_weights
from vesalius.models.config import ModelConfig
from vesalius.models.families import read_config
from vesalius.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from vesalius.tokenizers.sentencepiece_file import open_tokenizer
from vesalius.tokenizers.tokenizer import Tokenizer

SAFETENSORS_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One stored model.

    container     "GGUF" or "Hugging Face directory"
    architecture  what the container calls it
    formats       format of the weights -> how many tensors and bytes there are in it, by falling bytes
    tokenizer     numbers and texts about it, as `describe_tokenizer` gives them
    """

    path: Path
    container: str
    architecture: str
    config: ModelConfig
    formats: Mapping[str, Mapping[str, int]]
    tokenizer: Mapping[str, Any]


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
    file = read_gguf(path)
    return ModelFacts(
        path=path,
        container="GGUF",
        architecture=str(file.metadata.get("general.architecture")),
        config=config_of(file.metadata, file.tensors),
        formats=_histogram((tensor.format, tensor.nbytes) for tensor in file.tensors.values()),
        tokenizer=describe_tokenizer(tokenizer_from_gguf(file.metadata)),
    )


def _of_directory(path: Path) -> ModelFacts:
    published = read_json(path / CONFIG)
    if not isinstance(published, dict):
        raise UserError(f"{path / CONFIG} must hold a JSON object, got {type(published).__name__}: fetch it again")
    weights = read_weights(path)
    dtypes = ((str(tensor.dtype).removeprefix("torch."), tensor.nbytes) for tensor in weights.values())
    return ModelFacts(
        path=path,
        container="Hugging Face directory",
        architecture=str(published.get("model_type")),
        config=read_config(published),
        formats=_histogram((SAFETENSORS_NAMES.get(name, name), size) for name, size in dtypes),
        tokenizer=describe_tokenizer(open_tokenizer(path)),
    )


def _histogram(tensors: Iterable[tuple[str, int]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, size in tensors:
        entry = found.setdefault(name, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += size
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))
