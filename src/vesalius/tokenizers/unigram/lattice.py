"""All ways to split one text into pieces of a vocabulary, as paths through a lattice. Kudo 2018, arXiv:1804.10959.

A unigram model takes the pieces of a text for independent, so a split has the sum of its pieces' log-probabilities as
its score. There are exponentially many splits, but all go through the same positions: what is known of the paths to a
position is enough for those beyond it. So one sweep gives the best split (Viterbi 1967), the few best ones, or the
probability of the text under all of them (forward); a second one, backwards, gives how often each piece is expected
(Baum et al. 1970), and draws a split as often as the model holds it likely (forward filtering, backward sampling).

    best(end)    = max   over pieces that end here of  best(start) + score
    forward(end) = log Σ exp                           forward(start) + score

A character that no piece is alone becomes a piece of its own with the score `unknown`, so that a path never ends.
Of equally good paths the one with the longest last piece wins, as in Hugging Face `tokenizers`.

This is the readable form, for one text in plain Python; training sweeps over all words at once (`word_lattices.py`).
"""

import heapq
import math
import random
from collections.abc import Mapping
from typing import NamedTuple


class Edge(NamedTuple):
    """A piece in its place: the text from `start` to `end`."""

    start: int
    end: int
    score: float


class Split(NamedTuple):
    """A path through the whole text."""

    score: float
    edges: list[Edge]


class Lattice:
    """The splits of `text` into the pieces that `scores` names; `longest` is the length of the longest of them."""

    def __init__(self, text: str, scores: Mapping[str, float], unknown: float, longest: int) -> None:
        self.text = text
        self._scores = scores
        self._unknown = unknown
        self._longest = longest

    def ending(self, end: int) -> list[Edge]:
        """The edges that end at a position, the longest first."""
        text, scores = self.text, self._scores
        starts = range(max(0, end - self._longest), end)
        edges = [Edge(at, end, scores[piece]) for at in starts if (piece := text[at:end]) in scores]
        if text[end - 1] not in scores:
            edges.append(Edge(end - 1, end, self._unknown))
        return edges

    def best(self) -> list[Edge]:
        """The most probable split."""
        scores, last = [0.0], [Edge(0, 0, 0.0)]
        for end in range(1, len(self.text) + 1):
            edge = max(self.ending(end), key=lambda edge: scores[edge.start] + edge.score)
            scores.append(scores[edge.start] + edge.score)
            last.append(edge)
        path, at = [], len(self.text)
        while at:
            path.append(last[at])
            at = last[at].start
        return path[::-1]

    def n_best(self, count: int) -> list[Split]:
        """The `count` most probable splits, or as many as there are, the best one first.

        Of the paths to a position only the `count` best can be part of the answer.
        """
        ways: list[list[tuple[float, Edge, int]]] = [[(0.0, Edge(0, 0, 0.0), 0)]]  # score, last edge, rank before it
        for end in range(1, len(self.text) + 1):
            found = (
                (score + edge.score, edge, rank)
                for edge in self.ending(end)
                for rank, (score, _, _) in enumerate(ways[edge.start])
            )
            ways.append(heapq.nlargest(count, found, key=lambda way: way[0]))
        return [Split(score, self._path(ways, rank)) for rank, (score, _, _) in enumerate(ways[-1])]

    def forward(self, inverse_temperature: float = 1.0) -> list[float]:
        """For every position the log of the summed probability of all paths to it; the last one is that of the text.

        Scores are taken times `inverse_temperature`: at 0 every split counts the same.
        """
        sums = [0.0]
        for end in range(1, len(self.text) + 1):
            sums.append(_log_sum([sums[edge.start] + inverse_temperature * edge.score for edge in self.ending(end)]))
        return sums

    def expected(self) -> dict[Edge, float]:
        """How probable it is that a split of this text uses an edge; summed over the edges of a piece it is how often
        the piece is expected.

        The share of a position goes to the edges that end there by what they bring, and on to where these begin.
        """
        sums = self.forward()
        shares = [0.0] * len(self.text) + [1.0]
        found: dict[Edge, float] = {}
        for end in range(len(self.text), 0, -1):
            for edge in self.ending(end):
                found[edge] = shares[end] * math.exp(sums[edge.start] + edge.score - sums[end])
                shares[edge.start] += found[edge]
        return found

    def sample(self, generator: random.Random, inverse_temperature: float = 1.0) -> list[Edge]:
        """A split drawn with a probability in proportion to exp(`inverse_temperature` × score).

        Kudo's α: 1 is the model itself, less evens the splits out, more comes near to the best one.
        """
        sums = self.forward(inverse_temperature)
        path, at = [], len(self.text)
        while at:
            edges = self.ending(at)
            weights = [math.exp(sums[edge.start] + inverse_temperature * edge.score - sums[at]) for edge in edges]
            path.append(generator.choices(edges, weights)[0])
            at = path[-1].start
        return path[::-1]

    def _path(self, ways: list[list[tuple[float, Edge, int]]], rank: int) -> list[Edge]:
        path, at = [], len(self.text)
        while at:
            _, edge, rank = ways[at][rank]
            path.append(edge)
            at = edge.start
        return path[::-1]


def _log_sum(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))
