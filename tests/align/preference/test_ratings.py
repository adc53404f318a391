"""Rated answers in rows, and beside each row one of the same prompts and the same answers, exchanged."""

import itertools
import json

import pytest
import torch
from align.preferences import LAYOUT, pairs, ratings

from vesalius.align.preference.ratings import PackedRatings, encode_ratings, rating_batch
from vesalius.align.rows.answer_rows import Layout
from vesalius.align.rows.answers import AnswerBatch
from vesalius.align.rows.items import encode_answers
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE
from vesalius.tokenizers.tokenizer import Tokenizer


def source(tokenizer: Tokenizer, count: int = 30) -> PackedRatings:
    return PackedRatings(encode_ratings(ratings(count), tokenizer, LAYOUT), LAYOUT, seed=0)


def spoken(batch: AnswerBatch) -> list[tuple[list[int], list[int]]]:
    """The prompt that each answer of a batch stands behind, and the answer."""
    found = []
    for row in range(len(batch.tokens)):
        part = batch.split(1)[row]
        for number in range(part.weight):
            [(_, where)] = [(0, ((part.answer[0] == number) & (part.targets[0] != IGNORE)).nonzero().flatten())]
            start = int(where[0])
            begin = start - int(part.positions[0, start])
            found.append((part.tokens[0, begin : start + 1].tolist(), part.targets[0, where].tolist()))
    return found


def test_the_labels_are_those_of_the_answers(tokenizer: Tokenizer) -> None:
    known = {}
    for rating in ratings(30):
        prompt, [(ids, _)] = encode_answers(tokenizer, rating.prompt, [rating.answer], "")
        known[str((prompt, ids))] = rating.desirable
    for batch in itertools.islice(source(tokenizer), 6):
        assert [known[str(both)] for both in spoken(batch.answers)] == batch.desirable.tolist()


def test_exchanged_rows_have_the_same_prompts_and_answers_and_none_together(tokenizer: Tokenizer) -> None:
    for batch in itertools.islice(source(tokenizer), 6):
        for mine, others in zip(batch.answers.split(1), batch.exchanged.split(1), strict=True):
            before, after = spoken(mine), spoken(others)
            assert sorted(prompt for prompt, _ in before) == sorted(prompt for prompt, _ in after)
            assert sorted(answer for _, answer in before) == sorted(answer for _, answer in after)
            assert not any(both in before for both in after)


def test_parts_keep_answers_labels_and_exchanged_rows_together(tokenizer: Tokenizer) -> None:
    batch = next(source(tokenizer))
    parts = batch.split(1)
    assert torch.equal(torch.cat([part.desirable for part in parts]), batch.desirable)
    assert [part.weight for part in parts] == list(batch.answers.counts)
    assert [part.exchanged.weight for part in parts] == list(batch.answers.counts)


def test_a_row_of_one_answer_exchanges_nothing(tokenizer: Tokenizer) -> None:
    batch = rating_batch(encode_ratings(ratings(30), tokenizer, LAYOUT), [[0], [1, 2]], LAYOUT)
    assert batch.exchanged.counts == (0, 2)
    assert (batch.exchanged.targets[0] == IGNORE).all()
    assert batch.split(1)[0].exchanged.weight == 0


def test_a_state_through_json_goes_on_exactly(tokenizer: Tokenizer) -> None:
    packed, resumed = source(tokenizer), source(tokenizer)
    for _ in range(5):
        next(packed)
    resumed.load_state_dict(json.loads(json.dumps(packed.state_dict())))
    for one, other in itertools.islice(zip(packed, resumed, strict=False), 8):
        assert torch.equal(one.answers.tokens, other.answers.tokens)
        assert torch.equal(one.exchanged.tokens, other.exchanged.tokens)
        assert torch.equal(one.desirable, other.desirable)


def test_one_kind_alone_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="all 2 answers are rated good"):
        encode_ratings(ratings(2), tokenizer, LAYOUT)


def test_a_context_of_one_answer_is_refused(tokenizer: Tokenizer) -> None:
    data = ratings(4)
    shortest = int(encode_ratings(data, tokenizer, LAYOUT).items.lengths(LAYOUT).min())
    tight = Layout(rows=1, context=2 * shortest - 1, shared=True)
    with pytest.raises(UserError, match="room for one answer"):
        PackedRatings(encode_ratings(data, tokenizer, tight), tight, seed=0)


def test_the_name_of_what_is_too_long_is_told(tokenizer: Tokenizer) -> None:
    data = ratings(4)
    longest = int(encode_ratings(data, tokenizer, LAYOUT).items.lengths(LAYOUT).max())
    encoded = encode_ratings(data, tokenizer, Layout(rows=1, context=longest - 1, shared=True))
    assert encoded.items.dropped
    assert [data[place].desirable for place in encoded.items.kept] == encoded.desirable.tolist()
    assert len(pairs(4)) == len(encoded.items) + sum(map(len, encoded.items.dropped.values()))
