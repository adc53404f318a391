"""The Hugging Face hub: whole repositories without code or pickles, and single files.

Downloads go to huggingface_hub's own cache, which other libraries share (HF_HOME moves it), which goes on with what was
cut off, and which answers when there is no network.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vesalius.core.errors import UserError, VesaliusError, nearest
from vesalius.hub.gguf.parts import paths_of_parts

WANTED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model")
"""No pickles and no Python: neither is ever opened here."""

UNWANTED = ("*/*", "consolidated*.safetensors")
"""Other formats in folders of their own, and Mistral's second copy of the weights."""

_SHAPE = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*?)(?:/(.+\.gguf))?")


@dataclass(frozen=True)
class HubReference:
    """`owner/name`, or `owner/name/file.gguf` for one GGUF file of it; of a model in parts, any."""

    repository: str
    file: str | None

    @classmethod
    def parse(cls, text: str) -> "HubReference | None":
        """None where the text is not of this shape.

        >>> HubReference.parse("me/model-gguf/model.Q8_0.gguf")
        HubReference(repository='me/model-gguf', file='model.Q8_0.gguf')
        """
        match = _SHAPE.fullmatch(text)
        return cls(f"{match[1]}/{match[2]}", match[3]) if match else None


def fetch(reference: HubReference) -> Path:
    """The directory, or the GGUF file, on this disk; what is there already is not fetched again.

    UserError where there is no such repository or file, or it holds nothing that can be opened; VesaliusError where
    neither network nor cache has it.
    """
    names = _list_files(reference.repository)
    if reference.file is not None:
        if names is not None and reference.file not in names:
            ggufs = [name for name in names if name.endswith(".gguf")]
            raise UserError(f"{reference.repository} has no file {reference.file}, {nearest(reference.file, ggufs)}")
        parts = paths_of_parts(Path(reference.file))
        return [fetch_file(reference.repository, part.as_posix()) for part in parts][parts.index(Path(reference.file))]
    if names is not None:
        check_contents(reference.repository, names)
    try:
        return Path(
            snapshot_download(
                reference.repository,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
                local_files_only=names is None,
            )
        )
    except (LocalEntryNotFoundError, HTTPError, OSError) as error:
        raise _out_of_reach(reference.repository, error) from error


def fetch_file(repository: str, name: str, *, revision: str | None = None, directory: Path | None = None) -> Path:
    """One file, in huggingface_hub's cache or below `directory`. VesaliusError where it cannot be reached."""
    if directory is not None and not is_reachable():  # huggingface_hub would try for half a minute
        raise VesaliusError("the Hugging Face hub does not answer")
    try:
        return Path(hf_hub_download(repository, name, revision=revision, local_dir=directory))
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, HTTPError, OSError) as error:
        raise _out_of_reach(repository, error) from error


def check_contents(repository: str, names: Sequence[str]) -> None:
    """UserError unless the repository holds safetensors weights with a config: what else it holds decides the hint."""
    top = [name for name in names if "/" not in name]
    if "config.json" in top and any(name.endswith(".safetensors") for name in top):
        return
    if ggufs := sorted(name for name in names if name.endswith(".gguf")):
        raise UserError(
            f"{repository} holds GGUF files, name one of them: {repository}/{ggufs[0]}"
            + (f" (also {', '.join(ggufs[1:7])})" if len(ggufs) > 1 else "")
        )
    if pickles := [name for name in top if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]:
        raise UserError(
            f"{repository} has only pickled weights ({pickles[0]}), which can run any code when they are opened; "
            f'convert them where you trust them: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{repository}').save_pretrained('NEW')\""
        )
    raise UserError(f"{repository} has no config.json with safetensors weights: it is not a model that can be opened")


def is_reachable() -> bool:
    """Whether the hub answers at all, asked once and without patience."""
    try:
        HfApi().model_info("gpt2", timeout=10)
    except (HTTPError, OSError):
        return False
    return True


def _list_files(repository: str) -> list[str] | None:
    """The names of the repository's files; None where the hub is out of reach, so that the cache has to do."""
    try:
        return [sibling.rfilename for sibling in HfApi().model_info(repository, timeout=20).siblings or []]
    except GatedRepoError as error:
        raise UserError(
            f"{repository} is open only to those who accepted its terms: accept them at "
            f"https://huggingface.co/{repository} and log in by `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"no model {repository!r} on the Hugging Face hub: check its name, and access if it is private"
        ) from error
    except (HTTPError, OSError):
        return None


def _out_of_reach(repository: str, cause: Exception) -> VesaliusError:
    if isinstance(cause, LocalEntryNotFoundError):
        reason = "it does not answer, and nothing of this is in the cache"
    else:
        reason = str(cause).splitlines()[0][:120] if str(cause) else type(cause).__name__
    return VesaliusError(
        f"cannot reach the Hugging Face hub for {repository!r} ({reason}): connect, or use local files"
    )
