"""Joins the most frequent pair of neighbouring tokens, again and again: the loop that BPE and WordPiece share.

Counting anew after every merge would read the corpus thousands of times. Here each distinct word is kept once with its
count; for every pair a heap knows the words it was seen in, and one merge rewrites those words all together in NumPy.
A merge makes only pairs with the new token in them, so the count of a pair that waits in the heap can only fall: it is
corrected when the pair comes up.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BLOCK_WORDS = 2**17
"""How many words are rewritten at once: bounds the memory of the temporary arrays."""

END = -1
"""Stands after every word in the array of tokens, so that no pair reaches from one word into the next."""


def most_frequent_pairs(tokens: Array, sizes: Array, weights: Array, joined: int) -> Iterator[tuple[int, int]]:
    """The pairs to merge, one by one, until there is none left; the first one makes the token `joined`, each other one
    the next number.

    tokens   (tokens,) those of all words, one word after the other
    sizes    (words,) how many tokens each word has
    weights  (words,) how often it occurs

    Ties go to the pair with the smaller left token, then the smaller right one.
    """
    words, queue = _Words(tokens, sizes, weights), _PairQueue()
    for pairs, counts, places in words.pairs():
        queue.change(pairs, counts, places)
    queue.fill()
    while (best := queue.pop()) is not None:
        left, right, places = best
        yield left, right
        for block in _blocks(places):
            queue.change(*words.merge(block, left, right, joined))
        queue.fill()
        joined += 1


class _Words:
    """Every distinct word as token ids, one after the other in one array; merging shortens them in place.

    tokens   int32: word i is tokens[starts[i] : starts[i] + lengths[i]], its END included
    weights  int64: how often each word occurs
    """

    def __init__(self, tokens: Array, sizes: Array, weights: Array) -> None:
        self.weights = weights
        self.lengths = sizes + 1
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = np.full(self.lengths.sum(), END, np.int32)
        inside = np.ones(len(self.tokens), bool)
        inside[self.starts + sizes] = False
        self.tokens[inside] = tokens

    def pairs(self) -> Iterator[tuple[Array, Array, Array]]:
        """All pairs of neighbours, block by block: pairs, weights, words."""
        for block in _blocks(np.arange(len(self.lengths), dtype=np.int32)):
            index, owner = self._spread(block)
            tokens = self.tokens[index]
            at = np.flatnonzero((tokens[:-1] != END) & (tokens[1:] != END))
            words = block[owner[at]]
            yield _pack(tokens[at], tokens[at + 1]), self.weights[words], words

    def merge(self, places: Array, left: int, right: int, joined: int) -> tuple[Array, Array, Array, Array]:
        """Writes `joined` for `left, right` in the words `places`; which pairs that makes, in which words, and unmakes.

        -> made pairs, their weights, their words, unmade pairs (with the same weights), each (changes,).
        Occurrences are taken from left to right: what stands before one may be the `joined` of the one before it.
        """
        index, owner = self._spread(places)
        tokens = self.tokens[index]
        at = np.flatnonzero((tokens[:-1] == left) & (tokens[1:] == right))
        if left == right:
            at = _without_overlaps(at)
        before, after = tokens[at - 1], tokens[at + 2]  # at 0, -1 is the END of the last word
        before[1:][at[1:] == at[:-1] + 2] = joined
        has_before, has_after = before != END, after != END
        words = places[owner[at]]
        words = np.concatenate([words[has_before], words[has_after]])
        before, after = before[has_before], after[has_after]
        made = np.concatenate([_pack(before, joined), _pack(joined, after)])
        unmade = np.concatenate([_pack(before, left), _pack(right, after)])

        tokens[at] = joined
        self.lengths[places] -= np.bincount(owner[at], minlength=len(places))
        self.tokens[self._spread(places)[0]] = np.delete(tokens, at + 1)
        return made, self.weights[words], words, unmade

    def _spread(self, places: Array) -> tuple[Array, Array]:
        """Indices of all tokens of the words `places`, and for each of these the place of its word in `places`."""
        lengths = self.lengths[places]
        firsts = np.cumsum(lengths) - lengths
        owner = np.repeat(np.arange(len(places)), lengths)
        return np.arange(len(owner)) + (self.starts[places] - firsts)[owner], owner


class _PairQueue:
    """Pairs by falling count, then rising ids, each with the words it may be in. Counts in it may be stale."""

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._queue: list[tuple[int, int, Array]] = []  # (-count, pair, words), a pair once
        self._made: dict[int, list[Array]] = {}

    def change(self, made: Array, weights: Array, words: Array, unmade: Array | None = None) -> None:
        """Counts pairs that came up in words, and ones that went away."""
        everything, change = made, weights
        if unmade is not None:
            everything, change = np.concatenate([made, unmade]), np.concatenate([weights, -weights])
        pairs, where = np.unique(everything, return_inverse=True)
        changes = np.bincount(where, change, len(pairs)).astype(np.int64)  # sums in float64: exact below 2**53
        for pair, difference in zip(pairs.tolist(), changes.tolist(), strict=True):
            self._counts[pair] += difference
        for pair, places in _group(made, words):
            self._made.setdefault(pair, []).append(places)

    def fill(self) -> None:
        """Puts the pairs that came up since the last time into the queue."""
        for pair, places in self._made.items():
            if (count := self._counts[pair]) > 0:
                words = places[0] if len(places) == 1 else np.concatenate(places)
                heapq.heappush(self._queue, (-count, pair, words))
        self._made.clear()

    def pop(self) -> tuple[int, int, Array] | None:
        """The next pair to merge as its two tokens, and the words it may be in; None where no pair is left."""
        while self._queue:
            expected, pair, words = heapq.heappop(self._queue)
            count = self._counts[pair]
            if count == -expected:
                return (*divmod(pair, 2**32), words)
            if count > 0:
                heapq.heappush(self._queue, (-count, pair, words))
        return None


def _blocks(places: Array) -> Iterator[Array]:
    return (places[start : start + BLOCK_WORDS] for start in range(0, len(places), BLOCK_WORDS))


def _pack(left: Array | int, right: Array | int) -> Array:
    """Two ids as one number that sorts as the pair does."""
    return np.left_shift(left, 32, dtype=np.int64) + right


def _group(pairs: Array, words: Array) -> Iterator[tuple[int, Array]]:
    """Each distinct pair with the words it came up in, each word once."""
    order = np.lexsort((words, pairs))
    pairs, words = pairs[order], words[order]
    fresh = np.ones(len(pairs), bool)
    fresh[1:] = (pairs[1:] != pairs[:-1]) | (words[1:] != words[:-1])
    pairs, words = pairs[fresh], words[fresh]
    bounds = np.flatnonzero(np.diff(pairs, prepend=-1, append=-1))
    for pair, (start, end) in zip(pairs[bounds[:-1]].tolist(), itertools.pairwise(bounds.tolist()), strict=True):
        yield pair, words[start:end]


def _without_overlaps(at: Array) -> Array:
    """Of places that follow each other directly (as in "aaaa"), the first, third, fifth and so on of every run."""
    run_starts = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    run_lengths = np.diff(run_starts, append=len(at))
    return at[(at - np.repeat(at[run_starts], run_lengths)) % 2 == 0]
