"""Each processor equal to transformers' on random scores; the penalties that only OpenAI's API has, by its formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from vesalius.infer import processors

V = 50
BANNED = [[3], [7, 8], [9, 9], [1, 2, 3], [4, 5, 6, 7]]


def scores(seed: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 4


def history(seed: int, length: int = 30, among: int = 6) -> torch.Tensor:
    """Ids so few that they repeat and that banned sequences begin."""
    return torch.randint(among, (3, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda s: processors.temperature(s, 0.7), TemperatureLogitsWarper(0.7)),
        (lambda s: processors.temperature(s, 3.0), TemperatureLogitsWarper(3.0)),
        (lambda s: processors.top_k(s, 5), TopKLogitsWarper(5)),
        (lambda s: processors.top_k(s, 500), TopKLogitsWarper(500)),
        (lambda s: processors.top_p(s, 0.8), TopPLogitsWarper(0.8)),
        (lambda s: processors.top_p(s, 1e-6), TopPLogitsWarper(1e-6)),
        (lambda s: processors.min_p(s, 0.1), MinPLogitsWarper(0.1)),
        (lambda s: processors.min_p(s, 1.0), MinPLogitsWarper(1.0)),
        (lambda s: processors.typical_p(s, 0.2), TypicalLogitsWarper(0.2)),
        (lambda s: processors.typical_p(s, 0.9), TypicalLogitsWarper(0.9)),
        (lambda s: processors.typical_p(s, 0.9999), TypicalLogitsWarper(0.9999)),
        (lambda s: processors.remove(s, torch.tensor([4, 9])), SuppressTokensLogitsProcessor([4, 9])),
    ],
)
@pytest.mark.parametrize("some_are_removed", [False, True])
def test_each_that_shapes_the_distribution_equals_transformers(seed, ours, theirs, some_are_removed):
    before = scores(seed)
    if some_are_removed:
        before = before.masked_fill(scores(seed + 100) < 0, -math.inf)
    assert torch.equal(ours(before), theirs(history(seed), before))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), penalty=st.floats(0.1, 10), length=st.integers(0, 60))
def test_repetition_penalty_equals_transformers(seed, penalty, length):
    ids = history(seed, length)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, scores(seed))
    assert torch.equal(processors.repetition_penalty(scores(seed), ids, penalty), theirs)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 5), length=st.integers(1, 60))
def test_no_repeat_ngram_equals_transformers(seed, size, length):
    ids = history(seed, length, among=4)
    theirs = NoRepeatNGramLogitsProcessor(size)(ids, scores(seed))
    assert torch.equal(processors.no_repeat_ngram(scores(seed), ids, size), theirs)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), length=st.integers(1, 8))
def test_bad_words_equal_transformers(seed, length):
    ids = history(seed, length, among=10)
    groups = processors.banned_groups(map(tuple, BANNED), ids.device)
    theirs = NoBadWordsLogitsProcessor(BANNED)(ids, scores(seed))
    assert torch.equal(processors.bad_words(scores(seed), ids, groups), theirs)


def test_a_bad_word_is_banned_only_where_it_would_be_completed():
    groups = processors.banned_groups([(7, 8)], torch.device("cpu"))
    after_its_beginning = processors.bad_words(torch.zeros(V), torch.tensor([1, 7]), groups)
    assert after_its_beginning.isneginf().nonzero().tolist() == [[8]]
    assert processors.bad_words(torch.zeros(V), torch.tensor([7, 1]), groups).isfinite().all()


def test_logit_bias_equals_transformers():
    bias = {3: 2.5, 9: -100.0, 11: -math.inf}
    theirs = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    ours = processors.logit_bias(scores(0), torch.tensor(list(bias)), torch.tensor(list(bias.values())))
    assert torch.equal(ours, theirs(history(0), scores(0)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000), presence=st.floats(-2, 2), frequency=st.floats(-2, 2), length=st.sampled_from([0, 1, 30])
)
def test_presence_and_frequency_penalties_follow_openais_formula(seed, presence, frequency, length):
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence."""
    ids, expected = history(seed, length), scores(seed)
    for row, said in zip(expected, ids.tolist(), strict=True):
        for token in set(said):
            row[token] -= said.count(token) * frequency + presence
    torch.testing.assert_close(
        processors.count_penalties(scores(seed), ids, presence, frequency), expected, atol=1e-5, rtol=1e-6
    )


@pytest.mark.parametrize(
    "processor",
    [
        lambda s, i: processors.repetition_penalty(s, i, 1.3),
        lambda s, i: processors.count_penalties(s, i, 0.5, 0.25),
        lambda s, i: processors.no_repeat_ngram(s, i, 2),
        lambda s, i: processors.bad_words(s, i, processors.banned_groups(map(tuple, BANNED), i.device)),
        lambda s, i: processors.logit_bias(s, torch.tensor([3, 4]), torch.tensor([1.0, -1.0])),
        lambda s, i: processors.remove(s, torch.tensor([3, 4])),
        lambda s, _: processors.top_k(s, 5),
        lambda s, _: processors.top_p(s, 0.7),
        lambda s, _: processors.min_p(s, 0.1),
        lambda s, _: processors.typical_p(s, 0.7),
    ],
)
def test_a_row_alone_is_as_in_a_batch_and_what_comes_in_is_not_changed(processor):
    batch, ids = scores(1), history(1)
    together = processor(batch, ids)
    assert torch.equal(batch, scores(1))
    for row in range(3):
        assert torch.equal(processor(batch[row], ids[row]), together[row])


def test_ties_with_the_kth_score_stay():
    assert processors.top_k(torch.tensor([1.0, 3.0, 3.0, 3.0]), 2).isfinite().tolist() == [False, True, True, True]
