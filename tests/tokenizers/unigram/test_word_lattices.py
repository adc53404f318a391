import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.tokenizers.unigram.lattice import Lattice
from vesalius.tokenizers.unigram.word_lattices import WordLattices

WORDS = st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=6, unique=True)
LONGER = st.lists(st.text("abc", min_size=2, max_size=4), max_size=8, unique=True)


def scores_for(pieces, seed):
    return np.random.default_rng(seed).uniform(-6, -1, len(pieces))


def one_by_one(words, pieces, scores):
    table = dict(zip(pieces, scores.tolist(), strict=True))
    return [Lattice(word, table, -math.inf, max(map(len, pieces))) for word in words]


def splits(lattices, scores):
    """The pieces of the best split of each word, as numbers."""
    found = [[] for _ in range(lattices.words)]
    for words, pieces in lattices.best(scores):
        for word, piece in zip(words.tolist(), pieces.tolist(), strict=True):
            found[word].insert(0, piece)
    return found


def check(lattices, words, pieces, scores, counts):
    """Sums, expected counts and best splits are those of `Lattice` for every word."""
    single = one_by_one(words, pieces, scores)
    expected, likelihood = np.zeros(len(pieces)), 0.0
    for lattice, count in zip(single, counts.tolist(), strict=True):
        likelihood += count * lattice.forward()[-1]
        for edge, share in lattice.expected().items():
            expected[pieces.index(lattice.text[edge.start : edge.end])] += count * share
    found, log_probability = lattices.expected(scores, counts)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert log_probability == pytest.approx(likelihood, rel=1e-12)
    best = [
        [word[edge.start : edge.end] for edge in lattice.best()] for word, lattice in zip(words, single, strict=True)
    ]
    assert [[pieces[piece] for piece in split] for split in splits(lattices, scores)] == best


@settings(deadline=None)
@given(WORDS, LONGER, st.integers(0, 99))
def test_all_words_at_once_are_each_word_by_itself(words, longer, seed):
    pieces = [*"abc", *longer]
    counts = np.random.default_rng(seed).integers(1, 9, len(words))
    check(WordLattices.of(words, pieces), words, pieces, scores_for(pieces, seed), counts)


@settings(deadline=None)
@given(WORDS, LONGER, st.integers(0, 99), st.data())
def test_what_is_kept_is_as_if_made_anew(words, longer, seed, data):
    pieces = [*"abc", *longer]
    stays = np.array([True] * 3 + [data.draw(st.booleans()) for _ in longer])
    left = np.array([data.draw(st.booleans()) for _ in words])
    kept = WordLattices.of(words, pieces).keep(stays, left)
    pieces = [piece for piece, kept in zip(pieces, stays, strict=True) if kept]
    words = [word for word, kept in zip(words, left, strict=True) if kept]
    check(kept, words, pieces, scores_for(pieces, seed), np.ones(len(words), np.int64))


def test_equally_good_splits_end_with_the_longest_piece():
    pieces = [*"abc", "ab", "bc"]
    assert splits(WordLattices.of(["abc"], pieces), np.full(5, -1.0)) == [[0, 4]]


def test_a_word_that_is_a_piece_is_split_where_asked():
    pieces = [*"ab", "ab", "abab"]
    assert splits(WordLattices.of(["ab", "abab"], pieces, whole=False), np.full(4, -1.0)) == [[0, 1], [2, 2]]


def test_no_words():
    expected, likelihood = WordLattices.of([], ["a"]).expected(np.zeros(1), np.zeros(0))
    assert (expected.tolist(), likelihood) == ([0.0], 0.0)
