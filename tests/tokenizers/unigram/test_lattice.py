import itertools
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import chisquare

from vesalius.tokenizers.unigram.lattice import Edge, Lattice

SCORES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(-8, -0.1), max_size=8)
TEXTS = st.text("abcd", max_size=7)
UNKNOWN = -9.0


def lattice_of(text, scores):
    return Lattice(text, scores, UNKNOWN, max(map(len, scores), default=1))


def all_splits(text, scores):
    """Every split with its score, by trying all places to cut."""
    found = []
    for cuts in itertools.product([False, True], repeat=max(len(text) - 1, 0)):
        bounds = [0, *(place for place, cut in enumerate(cuts, start=1) if cut), *([len(text)] if text else [])]
        parts = [Edge(start, end, scores.get(text[start:end], UNKNOWN)) for start, end in itertools.pairwise(bounds)]
        if all(text[start:end] in scores or end - start == 1 for start, end, _ in parts):
            found.append((sum(edge.score for edge in parts), parts))
    return sorted(found, key=lambda split: -split[0])


@given(TEXTS, SCORES)
def test_the_best_split_is_the_best_of_all(text, scores):
    best = lattice_of(text, scores).best()
    assert "".join(text[edge.start : edge.end] for edge in best) == text
    assert math.isclose(sum(edge.score for edge in best), all_splits(text, scores)[0][0], abs_tol=1e-12)


def test_of_equally_good_splits_the_one_with_the_longest_last_piece():
    scores = {"a": -1.0, "ab": -1.0, "b": -1.0, "bc": -1.0, "c": -1.0}
    assert lattice_of("abc", scores).best() == [Edge(0, 1, -1.0), Edge(1, 3, -1.0)]


@given(TEXTS, SCORES, st.integers(1, 6))
def test_the_few_best_splits(text, scores, count):
    expected = [score for score, _ in all_splits(text, scores)[:count]]
    found = lattice_of(text, scores).n_best(count)
    assert [split.score for split in found] == pytest.approx(expected, abs=1e-12)
    assert len({tuple(split.edges) for split in found}) == len(found)
    for split in found:
        assert sum(edge.score for edge in split.edges) == pytest.approx(split.score, abs=1e-12)


@given(TEXTS, SCORES, st.sampled_from([0.0, 0.3, 1.0]))
def test_the_forward_sum_is_over_all_splits(text, scores, inverse_temperature):
    expected = logsumexp([inverse_temperature * score for score, _ in all_splits(text, scores)])
    assert lattice_of(text, scores).forward(inverse_temperature)[-1] == pytest.approx(expected, abs=1e-12)


@given(TEXTS, SCORES)
def test_expected_edges_are_those_of_all_splits(text, scores):
    splits = all_splits(text, scores)
    total = sum(math.exp(score) for score, _ in splits)
    expected = Counter()
    for score, edges in splits:
        for edge in edges:
            expected[edge] += math.exp(score) / total
    assert lattice_of(text, scores).expected() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("inverse_temperature", [0.2, 1.0])
def test_splits_are_drawn_as_often_as_they_are_probable(inverse_temperature):
    scores = {"a": -1.5, "b": -2.0, "ab": -2.5, "ba": -3.0, "aba": -3.5}
    splits = all_splits("abab", scores)
    weights = [math.exp(inverse_temperature * score) for score, _ in splits]
    generator, lattice = random.Random(0), lattice_of("abab", scores)
    drawn = Counter(tuple(lattice.sample(generator, inverse_temperature)) for _ in range(5000))
    observed = [drawn[tuple(edges)] for _, edges in splits]
    expected = [5000 * weight / sum(weights) for weight in weights]
    assert sum(observed) == 5000
    assert chisquare(observed, expected).pvalue > 0.01
