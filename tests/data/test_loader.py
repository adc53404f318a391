import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE, Batch
from vesalius.data.loader import PackedLoader, SequentialWindows
from vesalius.data.shards import TokenShards

TEXTS = ["the first document", "2", "third, and longer than the context of the rows", "ends here"]
BOUNDARY = 0


class NumberedShards:
    """Stands for a split whose token at each place is the place itself, so that a window tells where it is."""

    split = "train"

    def __init__(self, n_tokens: int, boundaries: tuple[int, ...] = (0,)) -> None:
        self.n_tokens = n_tokens
        self.boundary = -1
        self.tokens = np.arange(n_tokens)
        self.tokens[list(boundaries)] = self.boundary

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start < stop <= self.n_tokens
        return self.tokens[start:stop]


def loader_of(shards, batch_rows: int = 3, context: int = 8, seed: int = 1) -> PackedLoader:
    return PackedLoader(shards, batch_rows=batch_rows, context=context, seed=seed)


def take(loader: PackedLoader, count: int) -> list[Batch]:
    return [next(loader) for _ in range(count)]


def same(one: Batch, other: Batch) -> bool:
    return one.source == other.source and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("tokens", "targets", "positions")
    )


def starts_of_epoch(loader: PackedLoader, epoch: int) -> list[int]:
    """The places at which the windows of an epoch start, in the order of visiting; for NumberedShards and one row."""
    starts = []
    while True:
        last = int(next(loader).targets[0, -1])
        state = loader.state_dict()
        if state["epoch"] > epoch:
            return starts
        if state["epoch"] == epoch:
            starts.append(last - state["context"])


@pytest.fixture
def shards(make_shards) -> TokenShards:
    return make_shards(TEXTS, shard_tokens=15)


def test_a_batch_has_rows_of_context_tokens(shards):
    batch = next(loader_of(shards))

    assert {tuple(tensor.shape) for tensor in (batch.tokens, batch.targets, batch.positions)} == {(3, 8)}
    assert {tensor.dtype for tensor in (batch.tokens, batch.targets, batch.positions)} == {torch.int64}


def test_rows_are_pieces_of_the_stream_and_targets_follow_across_boundaries(shards):
    stream = torch.from_numpy(shards.read(0, shards.n_tokens).astype(np.int64))
    pieces = {tuple(piece) for piece in stream.unfold(0, 9, 1).tolist()}
    batches = take(loader_of(shards), 20)

    for batch in batches:
        windows = torch.cat([batch.tokens, batch.targets[:, -1:]], dim=1)
        assert {tuple(window) for window in windows.tolist()} <= pieces
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert any(BOUNDARY in batch.targets for batch in batches)


def test_positions_start_again_at_each_boundary_and_row(shards):
    for batch in take(loader_of(shards), 10):
        for tokens, positions in zip(batch.tokens.tolist(), batch.positions.tolist(), strict=True):
            expected: list[int] = []
            for token in tokens:
                expected.append(expected[-1] + 1 if expected and token != BOUNDARY else 0)
            assert positions == expected


@given(context=st.integers(1, 12), windows=st.integers(1, 9), rest=st.integers(0, 11), epoch=st.integers(0, 2))
def test_an_epoch_visits_every_window_once(context, windows, rest, epoch):
    n_tokens = context * windows + 1 + rest % context
    starts = sorted(starts_of_epoch(loader_of(NumberedShards(n_tokens), batch_rows=1, context=context), epoch))

    assert starts == list(range(starts[0], n_tokens - context, context))
    assert starts[0] < context


def test_epochs_differ_in_order_and_in_where_they_cut():
    first, second = (starts_of_epoch(loader_of(NumberedShards(1000), batch_rows=1), epoch) for epoch in (0, 1))

    assert first != sorted(first)
    assert min(first) != min(second)


def test_a_batch_goes_on_into_the_next_epoch():
    shards = NumberedShards(42)
    loader, one_by_one = loader_of(shards, batch_rows=4), loader_of(shards, batch_rows=1)

    for batch in take(loader, 6):
        expected = torch.cat([row.tokens for row in take(one_by_one, 4)])
        assert torch.equal(batch.tokens, expected)
    assert loader.state_dict()["epoch"] > 2


def test_seeds_decide_the_order(shards):
    assert all(map(same, take(loader_of(shards), 5), take(loader_of(shards), 5)))
    assert not all(map(same, take(loader_of(shards), 5), take(loader_of(shards, seed=2), 5)))


@given(n_tokens=st.integers(20, 90), rows=st.integers(1, 7), before=st.integers(0, 12), after=st.integers(1, 8))
def test_a_resumed_loader_gives_exactly_what_would_have_come(n_tokens, rows, before, after):
    shards = NumberedShards(n_tokens)
    loader = loader_of(shards, batch_rows=rows)
    take(loader, before)
    state = json.loads(json.dumps(loader.state_dict()))
    expected = take(loader, after)

    resumed = loader_of(shards, batch_rows=rows)
    resumed.load_state_dict(state)

    assert all(map(same, take(resumed, after), expected))


def test_the_source_tells_where_the_rows_come_from():
    batch = next(loader_of(NumberedShards(200), batch_rows=2))

    first, second = (int(last) - 8 for last in batch.targets[:, -1])
    assert batch.source == f"epoch 0, windows at tokens {first} {second}"


@pytest.mark.parametrize("change", [{"seed": 2}, {"context": 7}])
def test_a_state_of_other_settings_is_refused(shards, change):
    state = loader_of(shards).state_dict()

    with pytest.raises(UserError, match=rf"state has {next(iter(change))} = ., got {next(iter(change.values()))}"):
        loader_of(shards, **change).load_state_dict(state)


def test_a_split_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="has 8 tokens, a context of 8 needs 9"):
        loader_of(NumberedShards(8))


stream_shapes = {
    "n_tokens": st.integers(2, 60),
    "boundaries": st.sets(st.integers(1, 59), max_size=9),
    "context": st.integers(1, 20),
    "stride": st.integers(1, 20),
    "batch_rows": st.integers(1, 5),
}


@given(**stream_shapes)
def test_measuring_scores_every_token_but_boundaries_once(n_tokens, boundaries, context, stride, batch_rows):
    boundaries = {0, *(place for place in boundaries if place < n_tokens)}
    shards = NumberedShards(n_tokens, tuple(boundaries))
    windows = SequentialWindows(shards, context, batch_rows, stride=min(stride, context))

    batches = list(windows)

    targets = torch.cat([batch.targets.flatten() for batch in batches])
    assert targets[targets != IGNORE].tolist() == [place for place in range(n_tokens) if place not in boundaries]
    assert len(batches) == len(windows)
    assert sum(batch.weight for batch in batches) == n_tokens - len(boundaries)


def test_a_scored_token_follows_what_stands_before_it():
    for batch in SequentialWindows(NumberedShards(50), context=8, batch_rows=3, stride=3):
        scored = (batch.targets != IGNORE) & (batch.tokens != -1)
        assert torch.equal(batch.targets[scored], batch.tokens[scored] + 1)


def test_with_a_stride_tokens_are_predicted_from_at_least_the_overlap():
    for batch in SequentialWindows(NumberedShards(50), context=8, batch_rows=3, stride=3):
        for row in batch.targets[1:] if 1 in batch.targets else batch.targets:
            assert (row[:5] == IGNORE).all()


def test_measuring_can_be_repeated(shards):
    windows = SequentialWindows(shards, context=8, batch_rows=2)

    assert all(map(same, windows, windows))


@pytest.mark.parametrize("stride", [0, 9, -1])
def test_a_stride_beyond_the_context_is_refused(shards, stride):
    with pytest.raises(ValueError, match=f"between 1 and the context 8, got {stride}"):
        SequentialWindows(shards, context=8, batch_rows=2, stride=stride)


def test_a_batch_of_one_row_keeps_its_tokens_where_targets_are_ignored(make_shards):
    """Tokens and targets of one contiguous row once shared memory, and -100 reached the embedding."""
    shards = make_shards(["abcdefgh", "ijkl"])
    for batch in SequentialWindows(shards, context=4, batch_rows=1, stride=2):
        assert (batch.tokens >= 0).all()
