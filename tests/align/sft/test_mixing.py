"""Every source has its share of the tokens at any time, whole epochs of its own, and an order that goes on exactly."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from align.talks import CONTEXT, talks
from align.tiny_models import make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.align.rows.encoding import encode_conversations
from vesalius.align.sft.mixing import MixedRows
from vesalius.align.sft.sft import PackedConversations
from vesalius.core.errors import UserError

LONGEST = 20


def rows_of(lengths, sources, weights, *, seed: int = 0) -> MixedRows:
    arrays = np.array(lengths, np.int64), np.array(sources, np.int64)
    return MixedRows(*arrays, weights, context=LONGEST, seed=seed, fingerprint="here")


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vesalius.align.sft.mixing.BUFFER", 16)


sizes = st.lists(st.lists(st.integers(1, LONGEST), min_size=1, max_size=9), min_size=1, max_size=4)


@given(sizes=sizes, data=st.data())
@settings(max_examples=50, deadline=None)
def test_shares_of_the_tokens_are_the_weights(sizes: list[list[int]], data: st.DataObject) -> None:
    """At the end of a buffer no source is further from its share than one item of each source."""
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    lengths, sources = [*itertools.chain(*sizes)], [place for place, found in enumerate(sizes) for _ in found]
    rows, tokens = rows_of(lengths, sources, weights), np.zeros(len(sizes))
    while not any(rows.state_dict()["taken"]):
        for item in next(rows):
            tokens[sources[item]] += lengths[item]
    assert rows.state_dict()["tokens"] == tokens.tolist()
    assert (abs(tokens - tokens.sum() * np.array(weights) / sum(weights)) <= LONGEST * len(sizes)).all()


@pytest.mark.usefixtures("small_buffers")
def test_each_source_goes_through_epochs_of_its_own() -> None:
    lengths, sources = [5] * 12, [0] * 4 + [1] * 8
    rows = rows_of(lengths, sources, [1, 1])
    seen = Counter(item for _ in range(16) for item in next(rows))  # four items fill a row
    assert {seen[item] for item in range(4)} == {8}
    assert {seen[item] for item in range(4, 12)} == {4}
    assert rows.epoch == 4


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("before", [0, 1, 7, 23])
def test_a_state_through_json_goes_on_exactly(before: int) -> None:
    lengths = np.random.default_rng(0).integers(1, LONGEST, 25).tolist()
    sources = [0] * 5 + [1] * 20
    rows, resumed = (rows_of(lengths, sources, [2, 1]) for _ in range(2))
    for _ in range(before):
        next(rows)
    resumed.load_state_dict(json.loads(json.dumps(rows.state_dict())))
    assert [next(rows) for _ in range(30)] == [next(resumed) for _ in range(30)]


def test_the_seed_decides_the_order() -> None:
    lengths, sources = [5, 6, 7, 8] * 5, [0, 1] * 10
    first, same, other = ([next(rows_of(lengths, sources, [1, 1], seed=seed))] for seed in (0, 0, 1))
    assert first == same != other


def test_a_state_of_other_weights_is_refused() -> None:
    tokenizer = make_tokenizer()
    encoded = encode_conversations([*talks(5, origin="a"), *talks(5, origin="b")], tokenizer, CONTEXT)
    one, other = (
        PackedConversations(encoded, batch_rows=1, context=CONTEXT, seed=0, weights={"a": weight, "b": 1.0})
        for weight in (1.0, 2.0)
    )
    with pytest.raises(UserError, match="resume with the same files"):
        other.load_state_dict(one.state_dict())


def test_a_weight_of_what_is_not_there_is_an_error() -> None:
    encoded = encode_conversations(talks(5, origin="a"), make_tokenizer(), CONTEXT)
    with pytest.raises(UserError, match="b has a weight of 2, but no conversation of it is left"):
        PackedConversations(encoded, batch_rows=1, context=CONTEXT, seed=0, weights={"a": 1.0, "b": 2.0})


def test_a_source_without_a_weight_beside_others_with_one_is_an_error() -> None:
    encoded = encode_conversations([*talks(5, origin="a"), *talks(5, origin="b")], make_tokenizer(), CONTEXT)
    with pytest.raises(UserError, match="b has no weight, the others have"):
        PackedConversations(encoded, batch_rows=1, context=CONTEXT, seed=0, weights={"a": 1.0})


def test_batches_have_the_shares_too() -> None:
    tokenizer = make_tokenizer()
    encoded = encode_conversations([*talks(40, origin="a"), *talks(10, first=40, origin="b")], tokenizer, CONTEXT)
    packed = PackedConversations(encoded, batch_rows=4, context=CONTEXT, seed=0, weights={"a": 1.0, "b": 3.0})
    tokens = Counter[str]()
    for _ in range(400):
        for row in packed.next_with_rows()[1]:
            for item in row:
                tokens[encoded.origins[item]] += len(encoded.spans[item][0])
    assert tokens["b"] / tokens.total() == pytest.approx(0.75, abs=0.01)
