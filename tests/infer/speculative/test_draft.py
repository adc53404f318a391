"""Drafts: what each row of a tree reads, where it stands, and what is no tree."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesalius.infer.speculative.draft import EMPTY, MOST_NODES, Draft

trees = st.lists(st.integers(0, 10**6), max_size=MOST_NODES).map(
    lambda raw: [r % (i + 1) - 1 for i, r in enumerate(raw)]
)


@given(trees)
def test_a_row_reads_itself_and_the_rows_of_its_ancestors(parents):
    draft = Draft([0] * len(parents), parents)
    for row in range(len(draft) + 1):
        expected, at = {0, row}, row
        while at:
            at = parents[at - 1] + 1
            expected.add(at)
        assert {j for j in range(64) if draft.ancestors[row] >> j & 1} == expected
        assert row == 0 or draft.depths[row - 1] == len(expected) - 1
    assert draft.depth == max(draft.depths, default=0)


@given(trees)
def test_children_are_the_nodes_by_parent_in_their_order(parents):
    draft = Draft([0] * len(parents), parents)
    assert draft.children == [[i for i, p in enumerate(parents) if p == row - 1] for row in range(len(parents) + 1)]


def test_a_chain_reads_all_rows_before_it():
    draft = Draft.chain([5, 6, 7])
    assert draft.is_chain
    assert draft.depths == [1, 2, 3]
    assert draft.ancestors == [0b1, 0b11, 0b111, 0b1111]
    assert EMPTY.is_chain
    assert len(EMPTY) == EMPTY.depth == 0
    assert not Draft([5, 6], [-1, -1]).is_chain


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [-1]), "2 tokens and 1 parents"),
        (([1] * 63, list(range(-1, 62))), "at most 62"),
        (([1, 2], [-1, 1]), "index of an earlier token"),
        (([1], [-2]), "-1 or the index"),
        (([1], [-1], torch.zeros(2, 4)), "2 rows of probabilities for 1 tokens"),
    ],
)
def test_what_is_no_tree_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Draft(*arguments)
