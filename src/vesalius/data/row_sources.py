"""From a name that a person gives to what its rows hold: made here, read from files, or fetched from the hub."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from vesalius.core.errors import UserError, nearest
from vesalius.data.documents import find_files
from vesalius.data.hub_dataset import HubDataset
from vesalius.data.rows import Row, read_rows

T = TypeVar("T")
Made = Mapping[str, Callable[[], Iterator[T]]]
"""What needs no file, by its name, such as "questions:python"."""


def read_sources(specs: Sequence[str], made: Made[T], parse: Callable[[Row], Iterator[T]]) -> Iterator[T]:
    """What all specs hold, in order: a name in `made`, a path, a glob, or `hf:owner/name[:split]`, whose rows `parse`
    reads. UserError at once where nothing has the name; while reading, where a file or a row is broken.
    """
    return chain.from_iterable([_open(spec, made, parse) for spec in specs])


def _open(spec: str, made: Made[T], parse: Callable[[Row], Iterator[T]]) -> Iterator[T]:
    if spec in made:
        return made[spec]()
    scheme, colon, _ = spec.partition(":")
    if colon and any(name.startswith(f"{scheme}:") for name in made):
        raise UserError(f"nothing is called {spec!r}, {nearest(spec, made)}")
    paths = HubDataset.parse(spec).files() if spec.startswith("hf:") else [file.path for file in find_files(spec)]
    return (value for path in paths for row in read_rows(path) for value in parse(row))
