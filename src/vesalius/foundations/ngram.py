"""Interpolated modified Kneser-Ney: the strongest language model that only counts.

Each order takes a discount D from its counts a and gives what it saved to the order below, down to a uniform guess:

    P(w | h) = (a(h w) - D(a(h w))) / Σ_v a(h v)  +  γ(h) P(w | h without its oldest token)

The highest order counts occurrences. The lower ones are asked where the higher ones know little, so there a(h w) counts
the *different* tokens that precede h w: "Francisco" is frequent but follows one word, and is a bad guess after others.
Nothing precedes the start of a document, so n-grams that begin there keep their occurrences. A history never seen
leaves everything to the order below. D(1), D(2) and D(3 or more) follow from how many n-grams of an order were counted
once, twice, three and four times.

Sorted arrays in place of dictionaries: an n-gram is the integer (id of its first n-1 tokens) × V + last token, and its
own id is its place among them. An id is at most the number of tokens or V, so nothing overflows, and millions of tokens
take seconds.

Sources: Kneser & Ney 1995; Chen & Goodman 1999 (Computer Speech and Language 13), section 3, for the three discounts;
Heafield et al. 2013 (ACL), section 3.2, for document starts. Left out: pruning, and weights fitted to held-out text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D(1), D(2), D(3 or more) where the text is too small to estimate them; KenLM falls back on the same."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What one order has learned. Its histories are the n-grams of the order below; order 1 has one, the empty."""

    ngrams: Ints  # (N,) ascending: history id × V + token
    discounted: Floats  # (N,) a(h w) - D(a(h w))
    totals: Floats  # (histories,) Σ_v a(h v)
    saved: Floats  # (histories,) Σ_v D(a(h v)): γ(h) before it is divided by the total


class Level(NamedTuple):
    """The n-grams of one length in a text, and which of them ends at each of its positions, -1 for none."""

    ngrams: Ints  # (N,)
    ids: Ints  # (tokens,)


class KneserNey:
    """A fitted n-gram model over a closed vocabulary of V tokens; every token has a probability after every history.

    The boundary token opens each document. It is given and never predicted, and no history reaches back across it.
    """

    def __init__(self, orders: Sequence[Order], *, vocab_size: int, boundary: int) -> None:
        self.orders = tuple(orders)
        self.vocab_size = vocab_size
        self.boundary = boundary

    @classmethod
    def fit(
        cls,
        tokens: NDArray[np.integer],
        vocab_size: int,
        *,
        boundary: int,
        order: int = 5,
        discounts: Sequence[float] | None = None,
    ) -> "KneserNey":
        """Counts `tokens` (N,): documents one after another, each opened by `boundary`.

        `discounts` fixes one discount an order, that of single tokens first, in place of the estimated three.
        ValueError where a token is outside the vocabulary, or the discounts do not fit the order.
        """
        tokens = _checked(tokens, vocab_size)
        fixed = _one_each(discounts, order)
        orders: list[Order] = []
        for (level, longer), discount in zip(_levels(tokens, vocab_size, boundary, order), fixed, strict=True):
            counts = _counts(level, longer, tokens != boundary)
            histories = len(orders[-1].ngrams) if orders else 1
            orders.append(_discounted(level.ngrams, counts, level.ngrams // vocab_size, histories, discount))
        return cls(orders, vocab_size=vocab_size, boundary=boundary)

    def log_probs(self, tokens: NDArray[np.integer]) -> Floats:
        """tokens (N,) as in `fit` -> (N,) nats: log P of each token after its document's tokens before it.

        0 at boundaries, which are given: the sum is the log probability of all documents.
        """
        tokens = _checked(tokens, self.vocab_size)
        histories = [ids[:-1] for ids in self._histories(tokens)]
        with np.errstate(divide="ignore"):  # fixed discounts of 0 leave nothing to unseen tokens: log 0 is then meant
            log_probs = np.log(self._interpolate(histories, tokens))
        return np.where(tokens == self.boundary, 0.0, log_probs)

    def next_token(self, history: NDArray[np.integer]) -> Floats:
        """history (S,), with its boundary where that is near enough to matter -> (V,): P of every token after it."""
        histories = [ids[-1:] for ids in self._histories(_checked(history, self.vocab_size))]
        return self._interpolate(histories, np.arange(self.vocab_size))

    def _histories(self, tokens: Ints) -> list[Ints]:
        """For each order (N + 1,): the id of the history before each token and after the last, -1 for an unseen one."""
        histories = [np.zeros(len(tokens) + 1, dtype=np.int64)]
        for order in self.orders[:-1]:
            ids = _find(order.ngrams, histories[-1][:-1] * self.vocab_size + tokens)
            histories.append(np.concatenate([[-1], ids]))
        return histories

    def _interpolate(self, histories: Sequence[Ints], tokens: Ints) -> Floats:
        """One history id (N,) or (1,) an order, tokens (N,) -> (N,) probabilities."""
        probability = np.full(len(tokens), 1 / self.vocab_size)
        for order, history in zip(self.orders, histories, strict=True):
            if not len(order.ngrams):
                break  # no document was so long
            ids = _find(order.ngrams, history * self.vocab_size + tokens)
            own = np.where(ids >= 0, order.discounted[ids], 0.0)
            total = np.where(history >= 0, order.totals[history], 0.0)
            mixed = (own + order.saved[history] * probability) / np.maximum(total, 1)
            probability = np.where(total > 0, mixed, probability)
        return probability


def _levels(tokens: Ints, vocab_size: int, boundary: int, order: int) -> Iterator[tuple[Level, Level | None]]:
    """The n-grams of lengths 1 to `order`, each with those that are one longer; None after the last."""
    level = Level(np.arange(vocab_size), tokens)
    for _ in range(order - 1):
        longer = _lengthened(level, tokens, vocab_size, boundary)
        yield level, longer
        level = longer
    yield level, None


def _lengthened(level: Level, tokens: Ints, vocab_size: int, boundary: int) -> Level:
    """The n-grams that are one token longer; none of them has a boundary after its first token."""
    history = np.concatenate([[-1], level.ids[:-1]])
    inside = (history >= 0) & (tokens != boundary)
    ngrams, found = np.unique(history[inside] * vocab_size + tokens[inside], return_inverse=True)
    ids = np.full(len(tokens), -1)
    ids[inside] = found
    return Level(ngrams, ids)


def _counts(level: Level, longer: Level | None, predicted: NDArray[np.bool_]) -> Ints:
    """(N,) a(h w): how often each n-gram occurs or, where `longer` is given, how many different tokens precede it."""
    occurrences = np.bincount(level.ids[predicted & (level.ids >= 0)], minlength=len(level.ngrams))
    if longer is None:
        return occurrences
    inside = longer.ids >= 0
    endings = np.empty(len(longer.ngrams), dtype=np.int64)  # each longer n-gram without its oldest token
    endings[longer.ids[inside]] = level.ids[inside]
    preceding = np.bincount(endings, minlength=len(level.ngrams))
    return np.where(preceding > 0, preceding, occurrences)


def _discounted(ngrams: Ints, counts: Ints, history: Ints, histories: int, fixed: float | None) -> Order:
    discounts = _estimate_discounts(counts) if fixed is None else (fixed, fixed, fixed)
    taken = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    totals, saved = (
        np.bincount(history, weights, histories).astype(np.float64, copy=False) for weights in (counts, taken)
    )
    return Order(ngrams=ngrams, discounted=counts - taken, totals=totals, saved=saved)


def _estimate_discounts(counts: Ints) -> tuple[float, float, float]:
    """D(1), D(2), D(3 or more) by Chen & Goodman's formulas, where they give discounts between 0 and the count."""
    n1, n2, n3, n4 = (int((counts == count).sum()) for count in (1, 2, 3, 4))
    if 0 in (n1, n2, n3, n4):
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return discounts if min(discounts) > 0 else FALLBACK_DISCOUNTS


def _find(ngrams: Ints, wanted: Ints) -> Ints:
    """The place of each wanted n-gram in `ngrams`, -1 where it is not there."""
    places = np.searchsorted(ngrams, wanted)
    found = places < len(ngrams)
    found[found] = ngrams[places[found]] == wanted[found]
    return np.where(found, places, -1)


def _checked(tokens: NDArray[np.integer], vocab_size: int) -> Ints:
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or (tokens.size and (tokens.min() < 0 or tokens.max() >= vocab_size)):
        found = f"{tokens.min()} to {tokens.max()}" if tokens.size else "none"
        raise ValueError(
            f"tokens must be one row of ids from 0 to {vocab_size - 1}, got shape {tokens.shape} with ids {found}: "
            "vocab_size must be that of their tokenizer"
        )
    return tokens.astype(np.int64)


def _one_each(discounts: Sequence[float] | None, order: int) -> Sequence[float | None]:
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    if discounts is None:
        return [None] * order
    if len(discounts) != order or not all(0 <= discount <= 1 for discount in discounts):
        raise ValueError(f"expected {order} discounts between 0 and 1, one for each order, got {list(discounts)}")
    return discounts
