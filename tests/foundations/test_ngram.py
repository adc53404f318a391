"""Kneser-Ney against NLTK, against the textbook's formulas written with dictionaries, and as a distribution."""

import math
from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.lm import KneserNeyInterpolated, Vocabulary

from vesalius.foundations.ngram import FALLBACK_DISCOUNTS, KneserNey

BOS = 0
V = 12


def random_documents(seed: int, documents: int, length: int) -> np.ndarray:
    """Documents of a Zipf-like random walk, so that n-grams of all orders repeat."""
    random = np.random.default_rng(seed)
    tokens = [BOS]
    for _ in range(documents):
        for _ in range(random.integers(0, length)):
            tokens.append(1 + (tokens[-1] + min(int(random.zipf(2.0)), V - 2)) % (V - 1))
        tokens.append(BOS)
    return np.array(tokens[:-1])


TRAINING = random_documents(seed=0, documents=40, length=60)
HELD_OUT = random_documents(seed=1, documents=6, length=40)


def histories(tokens: np.ndarray, order: int) -> list[tuple[int, ...]]:
    """The history that each token has in its document, cut to the `order` - 1 latest."""
    starts = np.maximum.accumulate(np.where(tokens == BOS, np.arange(len(tokens)), 0))
    return [tuple(tokens[max(start, i - order + 1) : i].tolist()) for i, start in enumerate(starts)]


def ngrams_of(tokens: np.ndarray, order: int) -> list[tuple[int, ...]]:
    """All n-grams of 1 to `order` tokens that end in a token other than the boundary and stay inside a document."""
    contexts = histories(tokens, order)
    return [
        (*context[len(context) - n :], int(token))
        for context, token in zip(contexts, tokens, strict=True)
        if token != BOS
        for n in range(len(context) + 1)
    ]


class Textbook:
    """Modified Kneser-Ney with dictionaries and a recursion, straight from the formulas."""

    def __init__(self, tokens: np.ndarray, order: int) -> None:
        counted = Counter(ngrams_of(tokens, order))
        preceding = Counter(ngram[1:] for ngram in counted if len(ngram) > 1)
        self.counts: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for ngram, count in counted.items():
            highest_or_first = len(ngram) == order or ngram[0] == BOS
            self.counts[ngram[:-1]][ngram[-1]] = count if highest_or_first else preceding[ngram]
        self.discounts = [self.estimate(n) for n in range(1, order + 1)]

    def estimate(self, n: int) -> tuple[float, ...]:
        rows = [tokens.values() for history, tokens in self.counts.items() if len(history) == n - 1]
        counts_of_counts = Counter(count for row in rows for count in row)
        n1, n2, n3, n4 = (counts_of_counts[c] for c in (1, 2, 3, 4))
        if 0 in (n1, n2, n3, n4):
            return (0.0, *FALLBACK_DISCOUNTS)
        y = n1 / (n1 + 2 * n2)
        estimates = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return (0.0, *(estimates if min(estimates) > 0 else FALLBACK_DISCOUNTS))

    def probability(self, token: int, history: tuple[int, ...]) -> float:
        shorter = self.probability(token, history[1:]) if history else 1 / V
        if history not in self.counts:
            return shorter
        of_history, discounts = self.counts[history], self.discounts[len(history)]
        total = sum(of_history.values())
        count = of_history.get(token, 0)
        gamma = sum(discounts[min(c, 3)] for c in of_history.values()) / total
        return (count - discounts[min(count, 3)]) / total + gamma * shorter


@pytest.mark.parametrize("order", [2, 3, 5])
def test_is_nltks_interpolated_kneser_ney(order):
    """NLTK knows one discount, does not discount single tokens and divides by zero after a document's start.

    So: discounts (0, D, D, …), which also leave nothing to a uniform floor, and the tokens with a full history.
    """
    discount = 0.7
    oracle = KneserNeyInterpolated(order, discount=discount, vocabulary=Vocabulary(range(V)))
    oracle.counts.update([ngrams_of(TRAINING, order)])
    model = KneserNey.fit(TRAINING, V, boundary=BOS, order=order, discounts=[0.0] + [discount] * (order - 1))
    contexts = histories(HELD_OUT, order)
    compared = [i for i, context in enumerate(contexts) if len(context) == order - 1 and HELD_OUT[i] != BOS]
    expected = [oracle.unmasked_score(int(HELD_OUT[i]), contexts[i]) for i in compared]
    assert len(compared) > 50
    np.testing.assert_allclose(np.exp(model.log_probs(HELD_OUT)[compared]), expected, rtol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_is_the_textbooks_modified_kneser_ney(order):
    """Here single tokens are too few to estimate discounts, and longer n-grams are not: both ways are compared."""
    textbook = Textbook(TRAINING, order)
    model = KneserNey.fit(TRAINING, V, boundary=BOS, order=order)
    expected = [
        0.0 if token == BOS else math.log(textbook.probability(int(token), history))
        for token, history in zip(HELD_OUT, histories(HELD_OUT, order), strict=True)
    ]
    np.testing.assert_allclose(model.log_probs(HELD_OUT), expected, rtol=1e-12)


@cache
def fitted(order: int) -> KneserNey:
    return KneserNey.fit(TRAINING, V, boundary=BOS, order=order)


@given(st.lists(st.integers(0, V - 1), max_size=8), st.integers(1, 5))
def test_every_history_has_a_distribution_that_sums_to_one(history, order):
    probabilities = fitted(order).next_token(np.array(history, dtype=np.int64))
    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, rel=1e-12)


@given(st.lists(st.integers(0, V - 1), max_size=30), st.integers(1, 5))
def test_any_text_however_small_gives_distributions(tokens, order):
    tokens = np.array(tokens, dtype=np.int64)
    model = KneserNey.fit(tokens, V, boundary=BOS, order=order)
    probabilities = model.next_token(tokens[-3:])
    assert probabilities.min() > 0
    assert probabilities.sum() == pytest.approx(1, rel=1e-12)


@given(st.lists(st.integers(1, V - 1), min_size=1, max_size=8))
def test_log_probs_and_next_token_agree(document):
    tokens = np.array([BOS, *document])
    model = fitted(4)
    expected = [math.log(model.next_token(tokens[:i])[tokens[i]]) for i in range(1, len(tokens))]
    np.testing.assert_allclose(model.log_probs(tokens)[1:], expected, rtol=1e-12)


def test_nothing_is_remembered_across_a_boundary():
    first, second = random_documents(2, 1, 30), random_documents(3, 1, 30)
    model = fitted(5)
    together = model.log_probs(np.concatenate([first, second]))
    np.testing.assert_array_equal(together[len(first) :], model.log_probs(second))


def test_nothing_is_learned_across_a_boundary():
    model = KneserNey.fit(np.array([BOS, 1, 2, BOS, 3, 4, BOS, 3, 4]), V, boundary=BOS, order=3)
    after_two = model.next_token(np.array([2]))
    np.testing.assert_array_equal(after_two, model.next_token(np.array([], dtype=np.int64)))


def test_boundaries_are_given_and_cost_nothing():
    assert (fitted(3).log_probs(HELD_OUT)[HELD_OUT == BOS] == 0).all()


def test_an_empty_text_gives_the_uniform_model():
    model = KneserNey.fit(np.array([], dtype=np.int64), V, boundary=BOS)
    np.testing.assert_array_equal(model.log_probs(np.array([BOS, 3, 4])), [0, math.log(1 / V), math.log(1 / V)])


def test_high_orders_of_a_large_vocabulary_do_not_overflow():
    """Token ids up to 2^20 at order 8 would need 160 bits if an n-gram were one number in base V."""
    spread = 2**20 // V
    discounts = [0.0] + [0.5] * 7
    large = KneserNey.fit(TRAINING * spread, V * spread, boundary=BOS, order=8, discounts=discounts)
    small = KneserNey.fit(TRAINING, V, boundary=BOS, order=8, discounts=discounts)
    np.testing.assert_allclose(large.log_probs(HELD_OUT * spread), small.log_probs(HELD_OUT), rtol=1e-12)


def test_shards_smallest_integer_type_is_enough():
    np.testing.assert_array_equal(
        KneserNey.fit(TRAINING.astype(np.uint8), V, boundary=BOS).log_probs(HELD_OUT.astype(np.uint8)),
        KneserNey.fit(TRAINING, V, boundary=BOS).log_probs(HELD_OUT),
    )


def test_tokens_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match=r"ids from 0 to 11, got shape \(2,\) with ids 3 to 12"):
        KneserNey.fit(np.array([3, 12]), V, boundary=BOS)


@pytest.mark.parametrize("discounts", [[0.5], [0.5, 1.5]])
def test_discounts_that_do_not_fit_are_refused(discounts):
    with pytest.raises(ValueError, match="expected 2 discounts between 0 and 1"):
        KneserNey.fit(TRAINING, V, boundary=BOS, order=2, discounts=discounts)
