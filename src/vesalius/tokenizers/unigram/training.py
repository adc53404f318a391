"""Learns a Unigram vocabulary: too many pieces first, then the least useful go. Kudo 2018, arXiv:1804.10959, sec. 3.2.

1. Seed: all characters, and the substrings that cover the most text.
2. Twice: count how often each piece is expected over all splits of all words (E), and take these counts for the new
   probabilities (M). Not in proportion but as exp(digamma(count)), which is what a Dirichlet prior with little weight
   comes to (Liang & Klein 2007, "Structured Bayesian Nonparametric Models with Variational Inference"): rare pieces
   lose the most, and those that are expected less than half a time go.
3. The loss of a piece is how much less likely the text would be without it, every one of its uses replaced by its own
   best split. Those with the smallest loss go, a quarter at a time, and 2 follows again until enough are gone.

This is SentencePiece's algorithm (`unigram_model_trainer.cc`), which Hugging Face `tokenizers` has too. Three things
are other here: substrings are counted with the frequency of their words and not once for each different word; the last
pieces beyond the size also go by their loss, where those two look at the scores; and the probabilities are learned once
more after that, so that they sum to one. The text is likelier for it.

Characters are never removed. Left out: training on a sample of the text, and vocabularies without bytes.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.bpe import SPECIAL_TOKENS
from vesalius.tokenizers.unigram.model import ALWAYS_PIECES, Unigram, with_hidden
from vesalius.tokenizers.unigram.substrings import Words, frequent_substrings
from vesalius.tokenizers.unigram.word_lattices import WordLattices
from vesalius.tokenizers.word_counts import count_words

Array = np.ndarray[Any, Any]

LONGEST_PIECE = 16
MOST_SEEDS = 1_000_000
COVERAGE = 0.9995
"""Of the characters of the text, those that are no piece are the rarest, together less than the rest."""

ROUNDS = 2
"""Of counting and taking the counts, between two prunings."""

KEPT = 0.75
ABOVE_SIZE = 1.1
"""Pruning goes so far above the size at first; the last step is done by itself."""

LEAST_EXPECTED = 0.5


def train_unigram(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    *,
    processes: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Unigram:
    """Learns `vocab_size` tokens, special tokens, the unknown piece and the 256 bytes included.

    Words are the pieces of `pretokenize`. `on_progress` is told the part that is done. `processes`: see `count_words`.
    UserError where the text has too few pieces for so many tokens, or `vocab_size` no room for its characters.
    """
    counts, alphabet = _known_words(count_words(texts, processes))
    hidden = len(with_hidden([], special_tokens).pieces)
    size = vocab_size - hidden
    if size < len(alphabet):
        raise UserError(
            f"vocab_size is {vocab_size}, expected at least {hidden + len(alphabet)}: {hidden} special tokens and "
            f"bytes, and {len(alphabet)} characters of this text"
        )
    learned = learn_pieces(counts, size, alphabet, on_progress=on_progress)
    if len(learned) < size:
        raise UserError(
            f"vocab_size is {vocab_size}, but this text supports at most {hidden + len(learned)} tokens: "
            "lower vocab_size or give more text"
        )
    return with_hidden(learned, special_tokens)


def learn_pieces(
    counts: Mapping[str, int],
    size: int,
    alphabet: Iterable[str] = (),
    *,
    on_progress: Callable[[float], None] | None = None,
) -> list[tuple[str, float]]:
    """At most `size` pieces of these words by falling log-probability, fewer where the words have no more.

    All characters are pieces, those of `alphabet` too, which need not occur.
    """
    words = sorted(counts)
    frequencies = np.fromiter((counts[word] for word in words), np.int64, len(words))
    characters = sorted((dict.fromkeys(alphabet, 1) | _letters(counts)).items())
    seeds = frequent_substrings(Words.of(words), frequencies, LONGEST_PIECE, MOST_SEEDS)
    state = _Pieces(words, frequencies, [*characters, *seeds], len(characters))
    tell = on_progress or (lambda _: None)
    start, goal = len(state.pieces), max(int(size * ABOVE_SIZE), len(characters))
    state.learn(drop=True)
    while (left := len(state.pieces)) > goal:
        tell(math.log(start / left) / math.log(start / size))
        state.prune(max(goal, int(left * KEPT)))
        state.learn(drop=True)
    state.prune(size)
    state.learn(drop=False)
    tell(1.0)
    order = np.argsort(-state.scores, kind="stable")
    return [(state.pieces[piece], float(state.scores[piece])) for piece in order.tolist()]


class _Pieces:
    """The pieces that are left, characters first, their scores, and the lattices of all words over them."""

    def __init__(self, words: Sequence[str], counts: Array, seeds: Sequence[tuple[str, int]], characters: int) -> None:
        """`seeds` are pieces with how many characters they cover: a first guess at how often each is used."""
        self.pieces = [piece for piece, _ in seeds]
        covered = np.array([count for _, count in seeds], np.float64)
        self.scores = np.log(covered / covered.sum())
        self._counts = counts
        self._characters = characters
        self._words = WordLattices.of(words, self.pieces)
        self._own = WordLattices.of(self.pieces[characters:], self.pieces, whole=False)

    def learn(self, *, drop: bool) -> None:
        """Two rounds of expectation and maximisation; pieces that are hardly expected go where `drop`."""
        for _ in range(ROUNDS):
            expected, _ = self._words.expected(self.scores, self._counts)
            stays = expected >= LEAST_EXPECTED
            stays[: self._characters] = True
            if drop:
                self._keep(stays)
                expected = expected[stays]
            expected = np.maximum(expected, LEAST_EXPECTED)
            self.scores = digamma(expected) - digamma(expected.sum(keepdims=True))
        if not drop:
            self.scores -= np.log(np.exp(self.scores).sum())

    def prune(self, size: int) -> None:
        """Leaves the `size` pieces with the largest loss; the characters count, and stay."""
        loss = self._loss()
        loss[: self._characters] = np.inf
        stays = np.zeros(len(loss), bool)
        stays[np.argsort(-loss, kind="stable")[: max(size, self._characters)]] = True
        self._keep(stays & (loss > -np.inf))

    def _loss(self) -> Array:
        """(pieces,) nats that all words lose without each piece; minus infinity where the best splits do without it."""
        uses = np.zeros(len(self.pieces))
        for words, pieces in self._words.best(self.scores):
            uses += np.bincount(pieces, self._counts[words], len(uses))
        total, own = uses.sum(), np.maximum(uses[self._characters :], 1)  # of those never used nothing is asked
        replaced, parts = np.zeros(len(own)), np.zeros(len(own))
        for words, pieces in self._own.best(self.scores):
            replaced[words] += np.log(uses[pieces] + own[words])
            parts[words] += 1
        replaced -= parts * np.log(total + own * (parts - 1))
        loss = own * (np.log(own / total) - replaced)
        return np.where(uses > 0, np.concatenate([np.zeros(self._characters), loss]), -np.inf)

    def _keep(self, stays: Array) -> None:
        self.pieces = [piece for piece, kept in zip(self.pieces, stays.tolist(), strict=True) if kept]
        self.scores = self.scores[stays]
        self._words = self._words.keep(stays)
        self._own = self._own.keep(stays, stays[self._characters :])


def digamma(x: Array) -> Array:
    """(…) positive -> (…) the derivative of log Γ: the recurrence up to 6, then the asymptotic series (Abramowitz &
    Stegun 1964, 6.3.5 and 6.3.18)."""
    shift = np.zeros_like(x, dtype=np.float64)
    x = np.array(x, np.float64)
    while (small := x < 6).any():
        shift[small] -= 1 / x[small]
        x[small] += 1
    square = 1 / x**2
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    return shift + np.log(x) - 0.5 / x - series


def _known_words(counts: Counter[str]) -> tuple[Counter[str], list[str]]:
    """The words as the vocabulary writes them, cut where a character is too rare to be a piece; and the others."""
    letters = _letters(counts)
    allowed, covered, total = set(ALWAYS_PIECES), 0, letters.total()
    for character, count in sorted(letters.items(), key=lambda entry: (-entry[1], entry[0])):
        if covered >= COVERAGE * total:
            break
        covered += count
        allowed.add(BLANK if character == " " else character)
    rare = {character for character in letters if character.replace(" ", BLANK) not in allowed}
    known: Counter[str] = Counter()
    cut = re.compile("[" + re.escape("".join(sorted(rare))) + "]+") if rare else None
    for word, count in counts.items():
        for part in cut.split(word) if cut else [word]:
            if part:
                known[part.replace(" ", BLANK)] += count
    return known, sorted(allowed)


def _letters(counts: Mapping[str, int]) -> Counter[str]:
    """How often each character occurs."""
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            letters[character] += count
    return letters
