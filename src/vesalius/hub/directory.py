"""Models as Hugging Face directories: config.json, model.safetensors, tokenizer.json, generation_config.json.

transformers opens what is saved here with AutoModelForCausalLM and AutoTokenizer, as Llama or the first other family
that can say the model; one that none can say is saved all the same, with model_type "vesalius", and opens only here
(models/families). A run directory opens through its `model/`.
Left out: hub ids, aliases and GGUF files.
"""

from pathlib import Path
from typing import Any

import torch

from vesalius.adapt.merging import is_mergeable
from vesalius.adapt.switch import disabled, is_adapted
from vesalius.core.errors import UserError, nearest
from vesalius.core.files import atomic_path, write_json
from vesalius.core.run_directory import RunDirectory
from vesalius.hub.adapters import write_adapter
from vesalius.hub.json_object import read_object
from vesalius.hub.unpacking import unpacked
from vesalius.hub.weights import WEIGHTS, build_model, check_size, read_weights, write_weights
from vesalius.models.families import family_of, read_config, write_config
from vesalius.models.transformer import Transformer
from vesalius.models.weight_map import WeightMap
from vesalius.tokenizers.sentencepiece_file import open_tokenizer
from vesalius.tokenizers.tokenizer import Tokenizer

CONFIG = "config.json"
GENERATION = "generation_config.json"


def open_model(
    directory: Path | str, *, dtype: torch.dtype = torch.float32, weight_bytes: int | None = None
) -> tuple[Transformer, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer; `weight_bytes` as in weights.build_model. UserError that says
    what is wrong with the directory."""
    directory = find_model(directory)
    published = read_object(directory / CONFIG)
    _check_writes(published, directory)
    config = read_config(published)
    names, weights = family_of(published).weights, read_weights(directory)
    check_size(config, weights, where=str(directory))
    model = build_model(config, weights, dtype, where=str(directory), names=names, weight_bytes=weight_bytes)
    return model, open_tokenizer(directory)


def save_model(
    directory: Path | str, model: Transformer, tokenizer: Tokenizer, *, generation: dict[str, Any] | None = None
) -> None:
    """Writes the whole directory or nothing; what stood there before is replaced.

    Adapters in use are merged into what is written; where they are no change of the weights, the base is written, and
    the adapter beside it. `generation` adds to generation_config.json. UserError where the tokenizer has more tokens
    than the model.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}: "
            "save the model with its own tokenizer"
        )
    special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": list(tokenizer.eos_ids)}
    dtype = str(model.model.norm.weight.dtype).removeprefix("torch.")
    with atomic_path(directory) as scratch:
        scratch.mkdir()
        published = write_config(model.config)
        # Without it, some of transformers' configs take their own, which may be beyond the vocabulary.
        write_json(scratch / CONFIG, published | special | {"pad_token_id": None, "dtype": dtype})
        _write_weights(scratch, model, family_of(published).weights)
        tokenizer.save(scratch)
        write_json(scratch / GENERATION, special | {"pad_token_id": tokenizer.bos_id} | (generation or {}))


def _check_writes(published: dict[str, Any], directory: Path) -> None:
    """UserError for a model that scores texts: it has no output head."""
    for architecture in published.get("architectures") or ():
        if str(architecture).endswith(("ForSequenceClassification", "ForTokenClassification")):
            raise UserError(
                f"{directory} is a {architecture}: it scores texts and writes none, so give a model that was trained "
                "to write (align/scoring/files opens the one that scores)"
            )


def _write_weights(directory: Path, model: Transformer, names: WeightMap) -> None:
    if not is_adapted(model):
        write_weights(directory / WEIGHTS, model, names)
    elif is_mergeable(model):
        write_weights(directory / WEIGHTS, unpacked(model), names)
    else:
        write_adapter(directory, model)
        with disabled(model):
            write_weights(directory / WEIGHTS, model, names)


def find_model(path: Path | str) -> Path:
    """The directory with config.json: `path` itself, or a run's `model/`. UserError where there is none."""
    path = Path(path)
    if (path / CONFIG).is_file():
        return path
    run = RunDirectory(path)
    if (run.model / CONFIG).is_file():
        return run.model
    if run.recipe.exists():
        raise UserError(f"the run in {path} has no model yet: let it finish, or go on with it by --resume")
    if path.is_dir():
        raise UserError(f"{path} has no {CONFIG}: expected a Hugging Face directory or a finished run directory")
    if path.exists():
        raise UserError(f"{path} is a file, expected a Hugging Face directory or a run directory")
    raise UserError(f"no model at {path}{_beside(path)}: give a Hugging Face directory or a run directory")


def _beside(path: Path) -> str:
    """A hint where a directory beside has nearly the same name."""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    hint = nearest(path.name, names)
    return f", {hint}" if hint.startswith("did you mean") else ""
