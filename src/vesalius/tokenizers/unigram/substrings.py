"""Pieces found in many words at once, and the frequent substrings of all of them, in NumPy.

Both walk from every position of all words one character at a time, all positions together. What has been read is one
number, that of its place among all strings of this length that may be read; with the next character behind it that is
the key of the string that is one longer, as the n-grams of `foundations/ngram.py` are. Positions where nothing can
follow any more drop out, so that the work shrinks from one length to the next.

A suffix array, which SentencePiece and `tokenizers` build, gives the same substrings; in Python it would be slow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

CHARACTER_BITS = 21
"""Unicode ends below 2**21."""


@dataclass(frozen=True)
class Words:
    """The characters of many words, one word after the other.

    characters  (N,) code points
    room        (N,) how many characters a word has from here to its end
    owners      (N,) the number of the word
    """

    characters: Array
    room: Array
    owners: Array

    @classmethod
    def of(cls, words: Sequence[str]) -> "Words":
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        owners = np.repeat(np.arange(len(words)), lengths)
        characters = np.frombuffer("".join(words).encode("utf-32-le"), np.uint32).astype(np.int64)
        return cls(characters, np.cumsum(lengths)[owners] - np.arange(len(owners)), owners)

    def text(self, start: int, length: int) -> str:
        """`length` characters from a place on."""
        return self.characters[start : start + length].astype(np.uint32).tobytes().decode("utf-32-le")


class Found(NamedTuple):
    """Where pieces of one length stand."""

    length: int
    starts: Array  # (matches,) places in `Words.characters`, rising
    pieces: Array  # (matches,) which piece


def find_pieces(words: Words, pieces: Sequence[str]) -> Iterator[Found]:
    """All places where a piece stands inside of a word, by rising length."""
    starts, states = np.arange(len(words.characters)), np.zeros(len(words.characters), np.int64)
    for length, (keys, ends) in enumerate(_trie(pieces), start=1):
        inside = words.room[starts] >= length
        starts, states = starts[inside], states[inside]
        wanted = _keys(states, words.characters[starts + length - 1])
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = keys[places] == wanted
        starts, states = starts[known], places[known]
        found = ends[states]
        yield Found(length, starts[found >= 0], found[found >= 0])


def frequent_substrings(words: Words, counts: Array, longest: int, most: int) -> list[tuple[str, int]]:
    """Substrings of 2 to `longest` characters that occur at least twice, `counts` (words,) saying how often each word
    does: the `most` that cover the most characters, each with how many, by falling number.

    One that is always followed by the same character says nothing that the longer one doesn't, and is left out.
    """
    weights = counts[words.owners]
    starts, states = np.arange(len(words.characters)), np.zeros(len(words.characters), np.int64)
    firsts, totals = np.zeros(1, np.int64), np.array([weights.sum()])
    found: list[tuple[Array, Array, Array]] = []  # covered characters, where, how long
    for length in range(1, longest + 2):
        inside = words.room[starts] >= length
        starts, states = starts[inside], states[inside]
        keys = _keys(states, words.characters[starts + length - 1])
        longer, at, new_states = np.unique(keys, return_index=True, return_inverse=True)
        occurrences = np.bincount(new_states, weights[starts], len(longer)).astype(np.int64)
        followed = np.zeros(len(totals), np.int64)
        np.maximum.at(followed, longer >> CHARACTER_BITS, occurrences)
        if length > 2:
            taken = (totals >= 2) & ((followed < totals) | (length > longest))
            found.append((totals[taken] * (length - 1), firsts[taken], np.full(taken.sum(), length - 1)))
        firsts, totals = starts[at], occurrences
        alive = occurrences[new_states] >= 2
        starts, states = starts[alive], new_states[alive]
    covered, places, lengths = (np.concatenate(column) for column in zip(*found, strict=True))
    best = np.lexsort((places, -covered))[:most]
    chosen = zip(covered[best].tolist(), places[best].tolist(), lengths[best].tolist(), strict=True)
    return [(words.text(start, size), characters) for characters, start, size in chosen]


def _trie(pieces: Sequence[str]) -> Iterator[tuple[Array, Array]]:
    """For each length the keys of all beginnings of pieces, rising, and the piece that each is itself, -1 for none."""
    letters = Words.of(pieces)
    lengths = np.bincount(letters.owners, minlength=len(pieces))
    at = np.cumsum(lengths) - lengths
    ids, states = np.arange(len(pieces)), np.zeros(len(pieces), np.int64)
    for length in range(1, int(lengths.max(initial=0)) + 1):
        inside = lengths[ids] >= length
        ids, states = ids[inside], states[inside]
        keys, states = np.unique(_keys(states, letters.characters[at[ids] + length - 1]), return_inverse=True)
        ends = np.full(len(keys), -1)
        whole = lengths[ids] == length
        ends[states[whole]] = ids[whole]
        yield keys, ends


def _keys(states: Array, characters: Array) -> Array:
    return (states << CHARACTER_BITS) | characters
