"""Training or validation: decided by a hash, so that adding files never moves a document from one side to the other.

The hash is blake2b of the document's split key (its text, or for library code its module): stable on every machine and
version, unlike `hash`, and unlike a position in a list. A larger fraction only adds documents to the validation side.

A corpus of a few documents (one book) may leave a side empty. Only then the end of every document is held out instead.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Literal, Protocol, TypeVar

from vesalius.core.errors import UserError
from vesalius.data.document import Document

Split = Literal["train", "validation"]


class Keyed(Protocol):
    """What can be split: everything with one key stays together."""

    @property
    def split_key(self) -> str: ...


T = TypeVar("T")
K = TypeVar("K", bound=Keyed)

_LARGEST_HELD_BACK = 64 * 2**20  # characters kept in memory while one side is still empty


def is_validation(split_key: str, fraction: float) -> bool:
    """Whether what has this key belongs to the validation side, which gets about `fraction` of all keys.

    >>> [key for key in ("abc", "csv", "json", "os.path") if is_validation(key, 0.3)]
    ['json', 'os.path']
    """
    return int.from_bytes(_digest(split_key), "big") < fraction * 2**64


def split_documents(documents: Iterable[Document], fraction: float) -> Iterator[tuple[Split, Document]]:
    """Each document with its side. Where the hash gives one side nothing at all, each document's end is held out.

    UserError unless 0 < fraction < 1.
    """
    if not 0 < fraction < 1:
        raise UserError(f"validation_fraction must lie between 0 and 1, got {fraction}: 0.05 holds out a twentieth")
    stream = iter(documents)
    held: list[tuple[Split, Document]] = []
    characters = 0
    for document in stream:
        held.append((_side(document, fraction), document))
        characters += len(document.text)
        if len({side for side, _ in held}) == 2 or characters > _LARGEST_HELD_BACK:
            return chain(held, ((_side(document, fraction), document) for document in stream))
    return _held_out_ends([document for _, document in held], fraction)


def split_items(items: Iterable[K], fraction: float, what: str) -> tuple[list[K], list[K]]:
    """The items of training and those held out, which may be none. UserError where none are left to train on; `what`
    is what that calls them.
    """
    sides: dict[bool, list[K]] = {False: [], True: []}
    for item in items:
        sides[is_validation(item.split_key, fraction)].append(item)
    if not sides[False]:
        raise UserError(
            f"all {len(sides[True])} {what} fell to validation at validation_fraction = {fraction}: lower it, or give "
            f"more {what}"
        )
    return sides[False], sides[True]


def shuffled(documents: Iterable[Document]) -> list[Document]:
    """The documents in an order that hashes of their texts decide, whatever order they come in."""
    return sorted(documents, key=lambda document: _digest(document.text))


def spread(values: Sequence[T], count: int) -> list[T]:
    """At most `count` of the values, evenly spread: neighbours are alike.

    >>> spread(range(10), 4)
    [0, 3, 6, 9]
    """
    stride = max(1, -(-len(values) // count))
    return list(values[::stride])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _side(document: Document, fraction: float) -> Split:
    return "validation" if is_validation(document.split_key, fraction) else "train"


def _held_out_ends(documents: list[Document], fraction: float) -> Iterator[tuple[Split, Document]]:
    for document in documents:
        text = document.text
        wanted = int(len(text) * (1 - fraction))
        cut = text.rfind("\n", 0, wanted) + 1 or wanted
        parts: tuple[tuple[Split, str], ...] = (("train", text[:cut]), ("validation", text[cut:]))
        yield from ((side, replace(document, text=part)) for side, part in parts if part.strip())
