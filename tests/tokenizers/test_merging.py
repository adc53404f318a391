"""The loop beside the plain one that counts all pairs anew after every merge."""

import itertools
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.tokenizers.merging import most_frequent_pairs

WORDS = st.dictionaries(st.lists(st.integers(0, 3), max_size=12).map(tuple), st.integers(1, 5), max_size=6)
FIRST = 4


def by_counting(words):
    """Pairs in order, the most frequent first and of equals the smallest."""
    words = dict(words)
    for joined in itertools.count(FIRST):
        counts = Counter()
        for word, weight in words.items():
            for pair in itertools.pairwise(word):
                counts[pair] += weight
        if not counts:
            return
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        yield best
        rewritten = Counter()
        for word, weight in words.items():
            rewritten[merge(word, best, joined)] += weight
        words = dict(rewritten)


def merge(word, pair, joined):
    new, at = [], 0
    while at < len(word):
        found = word[at : at + 2] == pair
        new.append(joined if found else word[at])
        at += 2 if found else 1
    return tuple(new)


def ours(words):
    tokens = np.array([token for word in words for token in word], np.int32)
    sizes = np.array([len(word) for word in words], np.int64)
    return most_frequent_pairs(tokens, sizes, np.array(list(words.values()), np.int64), FIRST)


@settings(deadline=None)
@given(WORDS)
def test_pairs_are_those_of_counting_anew(words):
    assert list(ours(words)) == list(by_counting(words))


def test_a_pair_is_not_merged_before_the_next_one_is_asked_for():
    pairs = ours({(0, 1, 0, 1): 1})
    assert list(itertools.islice(pairs, 1)) == [(0, 1)]
    assert list(pairs) == [(4, 4)]
