"""Prompt look-up: what followed the longest run of last tokens, found without reading the text again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infer.speculative.written import text as sequence_of

from vesalius.infer.speculative.draft import EMPTY
from vesalius.infer.speculative.ngram import Lookup, Text

tokens = st.lists(st.integers(0, 3), max_size=40)


def searched(text: list[int], longest: int, limit: int) -> list[int]:
    """The same by reading the whole text: the latest place where the most last tokens stood before."""
    for size in range(min(longest, len(text) - 1), 0, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[-size:]:
                out = list(text)
                for i in range(limit):
                    out.append(out[end + i])
                return out[len(text) :]
    return []


@given(tokens, st.integers(1, 4), st.integers(0, 9))
def test_it_is_what_followed_the_latest_of_the_longest_matches(text, longest, limit):
    index = Text(longest)
    index.extend(text)
    assert index.continuation(limit) == searched(text, longest, limit)


@given(st.lists(tokens, max_size=6))
def test_a_text_that_came_in_pieces_is_as_one_that_came_whole(pieces):
    whole, grown = Text(3), Text(3)
    for piece in pieces:
        grown.extend(piece)
    whole.extend([token for piece in pieces for token in piece])
    assert grown.continuation(8) == whole.continuation(8)


def test_a_copy_goes_on_behind_the_place_that_it_was_changed_at():
    original = [10, 11, 12, 1, 20, 21, 1, 30, 31, 32]
    text = Text(4)
    text.extend([*original, 99, 10, 11])
    assert text.continuation(2) == [12, 1]
    text.extend([12, 77, 1])  # 77 was put in; 1 stands twice in the original, and next comes its first place
    assert text.continuation(2) == [20, 21]


def test_a_text_that_goes_back_to_something_far_away_is_followed_to_its_latest_place():
    text = Text(2)
    text.extend([1, 2, 3, 4, 9, 1, 5, 6, 8, 9])
    assert text.continuation(1) == [1]  # behind the 9 before
    text.extend([7, 1])
    assert text.continuation(2) == [5, 6]


def test_a_proposer_reads_only_what_is_new_and_forgets_a_closed_sequence():
    lookup, sequence = Lookup(), sequence_of([1, 2, 3, 1, 2])
    assert lookup.propose(sequence, 2).tokens == [3, 1]
    sequence.ids += [3, 9, 9]
    assert lookup.propose(sequence, 3).tokens == [9, 9, 9]
    assert lookup.propose(sequence_of([1, 2, 3]), 5) is EMPTY
    lookup.close(sequence)
    assert len(lookup._texts) == 1


def test_a_match_of_no_token_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Lookup(0)
