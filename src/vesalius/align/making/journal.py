"""Work that takes long and leaves one JSON row a unit: written as it is done, gone on with where it was stopped.

Units are worked on in batches that always begin at the same places, and a batch is done again from its start where a
kill has cut it off. What a model writes depends, in the last bits of its logits, on what it is computed together with;
this way that is the same in a run that was killed and in one that was not, and so are the rows.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vesalius.core.errors import UserError
from vesalius.core.files import atomic_write, disk_full_is_told

Row = dict[str, Any]


class Named(Protocol):
    """What work is done on."""

    @property
    def name(self) -> str:
        """What tells it from the others, the same each time."""
        ...


N = TypeVar("N", bound=Named)


def work_through(
    path: Path,
    units: Sequence[N],
    work: Callable[[Sequence[N]], list[Row]],
    *,
    together: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Row]:
    """The rows of all units in order: those that the file has, and those that `work` makes of the rest, `together` at a
    time; each begins with its unit's name. `advance` is told how many there are by now.

    UserError where the file's rows belong to other units.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = _read(path)
    for row, unit in zip(rows, units, strict=False):
        if row["name"] != unit.name:
            raise UserError(f"{path} has a row for {row['name']!r} where {unit.name!r} is to come: start a new run")
    if len(rows) != len(units):
        rows = rows[: len(rows) // together * together]
        atomic_write(path, "".join(map(_line, rows)))
    while len(rows) < len(units):
        advance(len(rows))
        batch = units[len(rows) : len(rows) + together]
        made = [{"name": unit.name, **row} for unit, row in zip(batch, work(batch), strict=True)]
        with disk_full_is_told(path), path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, made)))
        rows += made
    advance(len(rows))
    return rows


def _read(path: Path) -> list[Row]:
    """The whole rows of a file; a last line that a kill cut off is left out."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_kept(path: Path, rows: Sequence[Row]) -> int:
    """Writes the rows whose "kept" is true as a file of their own, whole or not at all -> how many they are."""
    kept = [row for row in rows if row["kept"]]
    atomic_write(path, "".join(map(_line, kept)))
    return len(kept)
