"""From a name to a model: an alias, a hub id, a Hugging Face or run directory, a .gguf file, an adapter."""

from collections.abc import Mapping
from pathlib import Path

import torch

from vesalius.adapt.switch import is_adapted, switch
from vesalius.core.errors import UserError
from vesalius.core.run_directory import RunDirectory
from vesalius.hub import directory
from vesalius.hub.adapters import base_of, is_adapter, load_adapter
from vesalius.hub.aliases import ALIASES
from vesalius.hub.gguf.model import open_gguf
from vesalius.hub.gguf.parts import paths_of_parts
from vesalius.hub.locate import locate
from vesalius.hub.weights import PICKLES
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer

GGUF = ".gguf"


def open_model(
    reference: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    adapter: str | Path | None = None,
    weight_bytes: int | None = None,
) -> tuple[Transformer, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer; an alias or a hub id is fetched where it is not here yet.

    The directory of an adapter is its base with the adapter around it; `adapter` is one for a model that is given, a
    directory, or a run that has one. `dtype` is that of all weights that are not quantised. `weight_bytes` is the
    memory for all but adapters: layers that do not fit are pages of mapped files (compress/offload). UserError that
    says what is wrong with the reference or with what it names; VesaliusError where it cannot be fetched.
    """
    path = model_path(reference)
    opening = open_gguf if path.suffix == GGUF else directory.open_model
    opened = opening(path, dtype=dtype, weight_bytes=weight_bytes)
    place = find_adapter(adapter) if adapter is not None else _own_adapter(reference, path)
    if place is not None:
        load_adapter(opened[0], place)
        opened[0].eval().requires_grad_(False)
    return opened


def open_with_adapters(
    reference: str | Path, adapters: Mapping[str, str | Path], *, weight_bytes: int | None = None
) -> tuple[Transformer, Tokenizer]:
    """The model with several adapters around it, each a directory or a run, by name. None is in use: whoever generates
    chooses one for each text. UserError as in `open_model`, and where the reference is an adapter itself."""
    model, tokenizer = open_model(reference, weight_bytes=weight_bytes)
    if is_adapted(model):
        raise UserError(f"{reference} has an adapter around it already: give its base, and {reference} as an adapter")
    for name, place in adapters.items():
        load_adapter(model, find_adapter(place), name)
    switch(model)
    return model.eval().requires_grad_(False), tokenizer


def model_path(reference: str | Path) -> Path:
    """The .gguf file, of several parts the one that is named or the first, or the directory with config.json that a
    reference means; for an adapter's directory, those of its base. UserError where it is no decoder."""
    alias = ALIASES.get(str(reference))
    if alias is not None and alias.kind == "encoder" and not Path(reference).exists():
        raise UserError(
            f"{reference} is an encoder ({alias.about}): it makes vectors and cannot continue a text; "
            f"`vesalius pull {reference}` fetches it"
        )
    path = locate(reference)
    if path.is_file():
        return _checked_file(path)
    if _is_adapter_alone(path):
        return _base_path(path)
    files = sorted(path.glob(f"*{GGUF}"))
    if files and not (path / directory.CONFIG).exists() and {*files} <= {*paths_of_parts(files[0])}:
        return files[0]
    return directory.find_model(path)


def find_adapter(path: Path | str) -> Path:
    """The directory with adapter_config.json: `path` itself, or a run's `adapter/`. UserError where there is none."""
    path = Path(path)
    places = (path, RunDirectory(path).adapter)
    found = next((place for place in places if is_adapter(place)), None)
    if found is None:
        raise UserError(f"{path} holds no adapter: give a directory with adapter_config.json, or a run that made one")
    return found


def _own_adapter(reference: str | Path, path: Path) -> Path | None:
    """That of a reference which is an adapter's directory, or of a model that has one beside its weights."""
    named = locate(reference)
    return next((place for place in (named, path) if place.is_dir() and is_adapter(place)), None)


def _is_adapter_alone(path: Path) -> bool:
    return is_adapter(path) and not (path / directory.CONFIG).exists()


def _base_path(path: Path) -> Path:
    """Of an adapter's directory. UserError where its base is an adapter again."""
    base = base_of(path)
    if _is_adapter_alone(Path(base)):
        raise UserError(f"the base of {path} is an adapter too, {base}: merge that one into its base first")
    return model_path(base)


def _checked_file(path: Path) -> Path:
    """UserError for a file that is no .gguf, with what to give in its place."""
    if path.suffix == GGUF:
        return path
    if path.name == directory.CONFIG or path.suffix in (".safetensors", ".json"):
        raise UserError(f"{path} is one file of a model: give its directory, {path.parent}")
    if path.suffix in PICKLES:
        raise UserError(
            f"{path} is a pickle, which can run any code when it is opened: take the model in safetensors or GGUF"
        )
    raise UserError(f"{path} is a file, expected a .gguf file, a Hugging Face directory or a run directory")
