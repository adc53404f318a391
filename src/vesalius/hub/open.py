"""From a name to a model: an alias, a hub id, a Hugging Face directory, a run directory, or a .gguf file."""

from pathlib import Path

import torch

from vesalius.core.errors import UserError
from vesalius.hub import directory
from vesalius.hub.aliases import ALIASES
from vesalius.hub.gguf.model import open_gguf
from vesalius.hub.gguf.parts import paths_of_parts
from vesalius.hub.locate import locate
from vesalius.hub.weights import PICKLES
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.tokenizer import Tokenizer

GGUF = ".gguf"


def open_model(reference: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Transformer, Tokenizer]:
    """The model, in evaluation mode, and its tokenizer; an alias or a hub id is fetched where it is not here yet.

    `dtype` is that of all weights that are not quantised. UserError that says what is wrong with the reference or with
    what it names; VesaliusError where it cannot be fetched.
    """
    path = model_path(reference)
    if path.suffix == GGUF:
        return open_gguf(path, dtype=dtype)
    return directory.open_model(path, dtype=dtype)


def model_path(reference: str | Path) -> Path:
    """The .gguf file, of several parts the one that is named or the first, or the directory with config.json that a
    reference means. UserError where it is no decoder."""
    alias = ALIASES.get(str(reference))
    if alias is not None and alias.kind == "encoder" and not Path(reference).exists():
        raise UserError(
            f"{reference} is an encoder ({alias.about}): it makes vectors and cannot continue a text; "
            f"`vesalius pull {reference}` fetches it"
        )
    path = locate(reference)
    if path.is_file():
        return _checked_file(path)
    files = sorted(path.glob(f"*{GGUF}"))
    if files and not (path / directory.CONFIG).exists() and {*files} <= {*paths_of_parts(files[0])}:
        return files[0]
    return directory.find_model(path)


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
