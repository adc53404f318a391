from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.tokenizers.unigram.substrings import Words, find_pieces, frequent_substrings

WORDS = st.lists(st.text("ab🤖", min_size=1, max_size=9), max_size=6, unique=True)


@settings(deadline=None)
@given(WORDS, st.lists(st.text("ab🤖", min_size=1, max_size=5), min_size=1, unique=True))
def test_pieces_are_found_wherever_they_stand(words, pieces):
    text = Words.of(words)
    found = {
        (start, found.length, pieces[piece])
        for found in find_pieces(text, pieces)
        for start, piece in zip(found.starts.tolist(), found.pieces.tolist(), strict=True)
    }
    expected, first = set(), 0
    for word in words:
        for start in range(len(word)):
            expected |= {(first + start, len(piece), piece) for piece in pieces if word.startswith(piece, start)}
        first += len(word)
    assert found == expected


def brute_force(words, longest):
    """Every substring with its number of occurrences, and what follows each of them."""
    totals, followed = Counter(), Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for length in range(1, min(longest + 1, len(word) - start) + 1):
                totals[word[start : start + length]] += count
    for text, count in totals.items():
        followed[text[:-1]] = max(followed[text[:-1]], count)
    usual = {text: total for text, total in totals.items() if 2 <= len(text) <= longest and total >= 2}
    return {text: total * len(text) for text, total in usual.items() if len(text) == longest or followed[text] < total}


@settings(deadline=None)
@given(st.dictionaries(st.text("ab🤖", min_size=1, max_size=9), st.integers(1, 4), max_size=6), st.integers(2, 5))
def test_frequent_substrings_are_those_that_counting_finds(words, longest):
    counts = np.array(list(words.values()), dtype=np.int64)
    found = frequent_substrings(Words.of(list(words)), counts, longest, 1000)
    assert dict(found) == brute_force(words, longest)
    assert [covered for _, covered in found] == sorted((covered for _, covered in found), reverse=True)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_those_that_cover_the_most_come_first(most):
    words = {"abcabc": 2, "abd": 5, "bd": 1}
    counts = np.array(list(words.values()))
    everything = frequent_substrings(Words.of(list(words)), counts, 4, 1000)
    assert frequent_substrings(Words.of(list(words)), counts, 4, most) == everything[:most]
    assert everything[0] == ("ab", 18)
