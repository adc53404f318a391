import threading
from typing import Any

import pytest
import torch

from vesalius.data.batch import Batch
from vesalius.data.prefetch import Prefetch


class Counting:
    """Batches that hold 0, 1, 2 …; fails or ends at a number."""

    def __init__(self, fails_at: int = -1, ends_at: int = -1) -> None:
        self.n, self.fails_at, self.ends_at = 0, fails_at, ends_at

    def __iter__(self) -> "Counting":
        return self

    def __next__(self) -> Batch:
        if self.n == self.fails_at:
            raise OSError("the disk went away")
        if self.n == self.ends_at:
            raise StopIteration
        self.n += 1
        number = torch.tensor([[self.n - 1]])
        return Batch(tokens=number, targets=number)

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n = state["n"]


def numbers(source: Prefetch, count: int) -> list[int]:
    return [int(next(source).tokens) for _ in range(count)]


def threads() -> int:
    return sum(thread.name == "vesalius-prefetch" for thread in threading.enumerate())


def test_batches_come_in_order():
    with Prefetch(Counting(), depth=3) as batches:
        assert numbers(batches, 50) == list(range(50))


def test_no_more_than_depth_batches_wait():
    source = Counting()
    with Prefetch(source, depth=2) as batches:
        for taken in range(1, 20):
            numbers(batches, 1)
            assert source.n <= taken + 2


def test_the_state_is_that_of_the_batch_last_handed_out():
    with Prefetch(Counting(), depth=4) as batches:
        assert batches.state_dict() == {"n": 0}
        numbers(batches, 3)
        assert batches.state_dict() == {"n": 3}


def test_loading_a_state_throws_away_what_waits():
    with Prefetch(Counting(), depth=4) as batches:
        numbers(batches, 5)
        batches.load_state_dict({"n": 2})

        assert batches.state_dict() == {"n": 2}
        assert numbers(batches, 3) == [2, 3, 4]


def test_an_error_comes_in_the_place_of_its_batch():
    with Prefetch(Counting(fails_at=2), depth=4) as batches:
        assert numbers(batches, 2) == [0, 1]
        with pytest.raises(OSError, match="the disk went away"):
            next(batches)
        assert batches.state_dict() == {"n": 2}


def test_a_source_that_ends_ends_the_batches():
    with Prefetch(Counting(ends_at=3)) as batches:
        assert [int(batch.tokens) for batch in batches] == [0, 1, 2]


def test_closing_ends_the_thread_and_loses_nothing():
    batches = Prefetch(Counting(), depth=2)
    assert numbers(batches, 2) == [0, 1]
    assert threads() == 1

    batches.close()

    assert threads() == 0
    assert numbers(batches, 2) == [2, 3]
    batches.close()


def test_making_one_starts_no_thread():
    Prefetch(Counting())

    assert threads() == 0


def test_a_depth_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Prefetch(Counting(), depth=0)
