"""What a reference to a model means: a path on this disk, an alias, or a hub id.

A path that exists always wins, so no name on the hub can stand in for a local directory. What looks like a path of a
directory that is there ("runs/quickstrat" beside "runs/") is taken for a misspelt one and never asked for on the hub.
"""

from pathlib import Path

from vesalius.core.errors import UserError, VesaliusError, nearest
from vesalius.hub.aliases import ALIASES
from vesalius.hub.hub_source import HubReference
from vesalius.hub.pull import alias_path, is_here, pull


def locate(reference: str | Path) -> Path:
    """The directory or file that a reference means, fetched where it is not here yet.

    UserError where it means nothing; VesaliusError where it cannot be fetched.
    """
    path = Path(reference).expanduser()
    if path.exists():
        return path
    name = str(reference)
    if name in ALIASES:
        return alias_path(ALIASES[name]) if is_here(ALIASES[name]) else pull(name).path
    if is_hub_id(reference):
        try:
            return pull(name).path
        except UserError:
            raise
        except VesaliusError as error:
            raise VesaliusError(f"no file or directory {name!r} here, and {error} or {' or '.join(ALIASES)}") from error
    raise UserError(f"no model at {name}{_hint(path)}: give a directory, a .gguf file, an alias or a hub id owner/name")


def is_hub_id(reference: str | Path) -> bool:
    """Whether a reference that is no path here has the form of a hub id and does not begin in a directory here."""
    return (
        isinstance(reference, str)
        and HubReference.parse(reference) is not None
        and not Path(reference.split("/", 1)[0]).is_dir()
    )


def _hint(path: Path) -> str:
    """The alias, or the entry beside, with nearly the same name."""
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    for names in (ALIASES, beside):
        hint = nearest(path.name, names)
        if hint.startswith("did you mean"):
            return f", {hint}"
    return ""
