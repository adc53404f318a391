"""The books of blocks: who holds what, what can be found, and what has to go first."""

import pytest

from vesalius.infer.blocks import BlockManager, OutOfBlocksError

ROOT = None


def published(blocks: BlockManager, text: list[int], root: object = ROOT) -> list[int]:
    """A table that holds a text, its full blocks findable."""
    table, parent = [], root
    for start in range(0, len(text) - blocks.size + 1, blocks.size):
        block, parent = blocks.publish(blocks.allocate(), parent, tuple(text[start : start + blocks.size]))
        table.append(block)
    return table


def test_blocks_are_all_different_until_none_is_left():
    blocks = BlockManager(3, 2)
    assert {blocks.allocate() for _ in range(3)} == {0, 1, 2}
    assert (blocks.used, blocks.available) == (3, 0)
    with pytest.raises(OutOfBlocksError, match="all 3 blocks"):
        blocks.allocate()


def test_a_block_is_free_when_its_last_holder_gives_it_back():
    blocks = BlockManager(2, 2)
    block = blocks.allocate()
    blocks.hold([block])
    assert blocks.is_shared(block)
    blocks.release([block])
    assert blocks.used == 1
    blocks.release([block])
    assert blocks.used == 0
    with pytest.raises(AssertionError, match="given back twice"):
        blocks.release([block])


def test_a_text_finds_the_blocks_of_the_longest_beginning_that_is_known():
    blocks = BlockManager(8, 2)
    table = published(blocks, [1, 2, 3, 4, 5, 6])
    assert blocks.find(ROOT, [1, 2, 3, 4, 9, 9])[0] == table[:2]
    assert blocks.find(ROOT, [1, 2, 3])[0] == table[:1]
    assert blocks.find(ROOT, [3, 4])[0] == []  # the same tokens behind another beginning are other keys
    assert blocks.find("adapter", [1, 2])[0] == []


def test_the_same_text_read_twice_at_once_ends_in_the_same_blocks():
    blocks = BlockManager(8, 2)
    first, second = published(blocks, [1, 2, 3, 4]), published(blocks, [1, 2, 3, 4])
    assert first == second
    assert blocks.used == 2


def test_what_nobody_holds_stays_findable_until_its_room_is_needed_and_the_least_recent_end_goes_first():
    blocks = BlockManager(4, 2)
    old, new = published(blocks, [1, 2, 3, 4]), published(blocks, [5, 6, 7, 8])
    blocks.release(old)
    blocks.release(new)
    assert (blocks.used, blocks.cached) == (0, 4)
    assert blocks.allocate() == old[1]
    assert blocks.find(ROOT, [1, 2, 3, 4])[0] == old[:1]
    assert blocks.find(ROOT, [5, 6, 7, 8])[0] == new
    with pytest.raises(OutOfBlocksError):  # all four are held now
        blocks.allocate()


def test_clearing_forgets_what_nobody_holds():
    blocks = BlockManager(4, 2)
    held, idle = published(blocks, [1, 2]), published(blocks, [3, 4])
    blocks.release(idle)
    blocks.clear()
    assert blocks.find(ROOT, [3, 4])[0] == []
    assert blocks.find(ROOT, [1, 2])[0] == held
