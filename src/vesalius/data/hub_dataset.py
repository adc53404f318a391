"""The files of a Hugging Face dataset: `hf:owner/name[/folder][:split[:column]]`.

Only the list of files and the files themselves are asked for; they are read like any other file here. So no dataset
script ever runs, and the library `datasets` is not needed. Downloads go to huggingface_hub's own cache, which also
answers when there is no network.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from vesalius.core.errors import UserError, VesaliusError, nearest
from vesalius.data.rows import ROW_FORMATS
from vesalius.data.text_files import format_of

_FORMATS = (*ROW_FORMATS, ".txt")  # the first one that a dataset has is read; the others are mostly copies of it
_SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """What a spec `hf:…` names."""

    repository: str
    folder: str
    split: str
    column: str | None

    @classmethod
    def parse(cls, spec: str) -> "HubDataset":
        """UserError where the spec is not of the form above; the split is "train" where none is named."""
        name, _, rest = spec.removeprefix("hf:").partition(":")
        split, _, column = rest.partition(":")
        owner, *parts = name.split("/", 2)
        if not owner or not parts or not parts[0]:
            raise UserError(f"{spec!r} names no dataset, expected hf:owner/name[/folder][:split[:column]]")
        return cls(f"{owner}/{parts[0]}", "".join(parts[1:]).strip("/"), split or "train", column or None)

    def files(self) -> Iterator[Path]:
        """The files of the split, each downloaded when it is asked for.

        UserError where there is no such dataset, folder or split; VesaliusError where neither network nor cache has it.
        """
        for name in choose_files(self._list_files(), self.folder, self.split, self.repository):
            try:
                yield Path(hf_hub_download(self.repository, name, repo_type="dataset"))
            except (HTTPError, OSError) as error:
                raise self._out_of_reach(error) from error

    def _list_files(self) -> list[str]:
        try:
            return [sibling.rfilename for sibling in HfApi().dataset_info(self.repository, timeout=20).siblings or []]
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise UserError(
                f"no dataset {self.repository!r} on the Hugging Face hub: check its name, and access if private"
            ) from error
        except (HTTPError, OSError) as error:
            return self._list_cached_files(error)

    def _list_cached_files(self, cause: Exception) -> list[str]:
        try:
            root = Path(snapshot_download(self.repository, repo_type="dataset", local_files_only=True))
        except LocalEntryNotFoundError:
            raise self._out_of_reach(cause) from cause
        return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]

    def _out_of_reach(self, cause: Exception) -> VesaliusError:
        reason = str(cause).splitlines()[0][:120] if str(cause) else type(cause).__name__
        return VesaliusError(
            f"cannot reach the Hugging Face hub for {self.repository!r} ({reason}): "
            "connect, or use local files or corpus:python"
        )


def choose_files(names: list[str], folder: str, split: str, repository: str) -> list[str]:
    """The data files below `folder` that belong to `split`, in order; all of them where no file's name tells a split.

    UserError where nothing fits, or where the files lie in several folders and none was named: these are mostly
    versions or languages, which nobody wants mixed.

    >>> choose_files(["README.md", "data/train-0.parquet", "data/test-0.parquet"], "", "test", "me/poems")
    ['data/test-0.parquet']
    """
    inside = [name for name in sorted(names) if PurePosixPath(name).is_relative_to(folder)]
    kind = next((kind for kind in _FORMATS if any(format_of(Path(name)) == kind for name in inside)), None)
    data = [name for name in inside if format_of(Path(name)) == kind] if kind else []
    if not data:
        place = f"folder {folder!r} of {repository!r}" if folder else repr(repository)
        raise UserError(f"{place} has no file that can be read, expected {', '.join(_FORMATS)}")
    told = {found for name in data for found in _SPLIT_NAMES if _tells(name, found)}
    chosen = [name for name in data if _tells(name, split)] if told or split != "train" else data
    if not chosen:
        raise UserError(f"{repository!r} has no split {split!r}, {nearest(split, told)}")
    folders = sorted({PurePosixPath(name).parent.as_posix() for name in chosen})
    if len(folders) > 1 and not folder:
        raise UserError(
            f"{repository!r} has several parts ({', '.join(folders[:9])}): "
            f"choose one, as in hf:{repository}/{folders[0]}"
        )
    return chosen


def _tells(name: str, split: str) -> bool:
    return re.search(rf"(?<![A-Za-z]){re.escape(split)}(?![A-Za-z])", name) is not None
