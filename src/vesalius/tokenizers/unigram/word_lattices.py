"""The lattices of all words of a corpus at once, for training: `lattice.py` over arrays.

A node is a position in a word. Nodes are numbered by their position first and the word second, the longest word first:
so all nodes at one position lie next to each other, edges that are sorted by their target too, and one step of a sweep
does one position of every word that is so long. The number of steps is the length of the longest word.

Expected counts are what reverse-mode differentiation gives: the derivative of log Z by the score of a piece is how
often the piece is expected (Eisner 2016, "Inside-Outside and Forward-Backward Algorithms Are Just Backprop").

Every character must be a piece, so that each node can be reached.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vesalius.tokenizers.unigram.substrings import Words, find_pieces

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class WordLattices:
    """Lattices of `words` words.

    words    how many; their first nodes are 0 to words - 1
    bases    (longest word + 2,) the first node of each position, and the number of nodes
    ends     (words,) the last node of each word, in the order in which the words were given
    sources, targets, pieces   (edges,) sorted by target, then by source
    """

    words: int
    bases: Array
    ends: Array
    sources: Array
    targets: Array
    pieces: Array

    @classmethod
    def of(cls, words: Sequence[str], pieces: Sequence[str], *, whole: bool = True) -> "WordLattices":
        """The lattices of words; without `whole` a word that is a piece itself is split nevertheless."""
        text = Words.of(words)
        lengths = np.bincount(text.owners, minlength=len(words))
        ranks = np.empty(len(words), np.int64)
        ranks[np.argsort(-lengths, kind="stable")] = np.arange(len(words))
        sizes = len(words) - np.cumsum(np.bincount(lengths, minlength=1)) + np.bincount(lengths, minlength=1)
        bases = np.concatenate([[0], np.cumsum(sizes)])  # `sizes`: how many words have each position
        offsets = lengths[text.owners] - text.room
        columns: list[tuple[Array, Array, Array]] = []
        for length, starts, found in find_pieces(text, pieces):
            if not whole:
                split = length < lengths[text.owners[starts]]
                starts, found = starts[split], found[split]
            owner, offset = ranks[text.owners[starts]], offsets[starts]
            columns.append((bases[offset] + owner, bases[offset + length] + owner, found))
        sources, targets, which = (
            np.concatenate(column).astype(np.int32) for column in zip(*reversed(columns), strict=True)
        )
        order = np.argsort(targets, kind="stable")  # the longest first: their sources are the smallest
        return cls(len(words), bases, bases[lengths] + ranks, sources[order], targets[order], which[order])

    def keep(self, pieces: Array, words: Array | None = None) -> "WordLattices":
        """Without the edges of pieces that are not in the mask `pieces` (pieces,), and without words that are not in
        `words` (words,); those that stay are numbered anew."""
        numbers = (np.cumsum(pieces) - 1).astype(np.int32)
        kept = self if words is None else self._with_words(words)
        stays = pieces[kept.pieces]
        return replace(
            kept,
            sources=kept.sources[stays],
            targets=kept.targets[stays],
            pieces=numbers[kept.pieces[stays]],
        )

    def forward(self, scores: Array) -> Array:
        """scores (pieces,) -> (nodes,) the log of the summed probability of all paths to a node."""
        sums = np.zeros(self.bases[-1])
        for nodes, edges, heads in self._steps():
            values = sums[self.sources[edges]] + scores[self.pieces[edges]]
            largest = np.maximum.reduceat(values, heads)
            local = self.targets[edges] - nodes.start
            sums[nodes] = largest + np.log(np.add.reduceat(np.exp(values - largest[local]), heads))
        return sums

    def expected(self, scores: Array, counts: Array) -> tuple[Array, float]:
        """scores (pieces,), counts (words,) -> (pieces,) how often each piece is expected in all words, and the
        log-probability of all words."""
        sums = self.forward(scores)
        posterior = np.exp(sums[self.sources] + scores[self.pieces] - sums[self.targets])
        shares = np.zeros(len(sums))
        shares[self.ends] = counts
        for _, edges, _ in reversed(list(self._steps())):
            posterior[edges] *= shares[self.targets[edges]]
            np.add.at(shares, self.sources[edges], posterior[edges])
        return np.bincount(self.pieces, posterior, len(scores)), float(sums[self.ends] @ counts)

    def best(self, scores: Array) -> Iterator[tuple[Array, Array]]:
        """The most probable splits, as pairs: words (n,), and the piece of each (n,), from the last to the first.

        Each pair goes one piece back in all words that have one left.
        """
        last = self._best_edges(scores)
        words, at = np.arange(self.words), self.ends
        while True:
            inside = at >= self.words
            words, at = words[inside], at[inside]
            if not len(words):
                return
            edges = last[at]
            yield words, self.pieces[edges]
            at = self.sources[edges]

    def _best_edges(self, scores: Array) -> Array:
        """(nodes,) the last edge of the best path to each node."""
        sums, last = np.zeros(self.bases[-1]), np.zeros(self.bases[-1], np.int64)
        for nodes, edges, heads in self._steps():
            values = sums[self.sources[edges]] + scores[self.pieces[edges]]
            sums[nodes] = np.maximum.reduceat(values, heads)
            best = np.flatnonzero(values == sums[self.targets[edges]])
            targets = self.targets[edges][best]
            last[nodes] = edges.start + best[np.diff(targets, prepend=-1) > 0]  # the longest of equals
        return last

    def _steps(self) -> Iterator[tuple[slice, slice, Array]]:
        """For every position but the first: its nodes, the edges that end there, and where those of each node begin."""
        heads = np.flatnonzero(np.diff(self.targets, prepend=-1))
        assert len(heads) == self.bases[-1] - self.words, "a character is no piece"
        bounds = np.append(heads, len(self.targets))
        for first, end in zip((self.bases[1:-1]).tolist(), self.bases[2:].tolist(), strict=True):
            inside = bounds[first - self.words : end - self.words + 1]
            yield slice(first, end), slice(int(inside[0]), int(inside[-1])), inside[:-1] - inside[0]

    def _with_words(self, words: Array) -> "WordLattices":
        ranks = np.zeros(self.words, bool)
        position = np.searchsorted(self.bases, self.ends, "right") - 1
        ranks[self.ends - self.bases[position]] = words
        sizes = np.diff(self.bases)
        stays = np.concatenate([words[:0], *(ranks[:size] for size in sizes.tolist())])  # (nodes,)
        numbers = (np.cumsum(stays) - 1).astype(np.int32)
        edges = stays[self.targets]
        bases = np.concatenate([[0], np.cumsum(stays)])[self.bases]
        return WordLattices(
            int(ranks.sum()),
            bases[: np.searchsorted(bases, bases[-1]) + 1],
            numbers[self.ends[words]],
            numbers[self.sources[edges]],
            numbers[self.targets[edges]],
            self.pieces[edges],
        )
