"""Learns a byte-level BPE vocabulary. Sennrich et al. 2016, arXiv:1508.07909, algorithm 1, made incremental.

Repeatedly the most frequent pair of neighbouring tokens becomes a new token. **Ties** go to the pair with the smaller
left id, then the smaller right id; ids are special tokens first, then the 256 bytes ordered by their printable
characters (`pretokenize.BYTE_TO_CHAR`), then learned tokens in order. So the merges are those of Hugging Face
`tokenizers` (its `bpe/trainer.rs`), and they do not depend on the order of the documents.

Counting anew after every merge would read the corpus thousands of times. Here each distinct word is kept once with its
count; for every pair a heap knows the words it was seen in, and one merge rewrites those words all together in NumPy.
A merge makes only pairs with the new token in them, so the count of a pair that waits in the heap can only fall: it is
corrected when the pair comes up.

Left out: `min_frequency`, limits on the alphabet and on the length of a token.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vesalius.core.errors import UserError
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.pretokenize import BYTE_TO_CHAR, to_printable
from vesalius.tokenizers.word_counts import count_words

Array = np.ndarray[Any, Any]

BLOCK_WORDS = 2**17
"""How many words are rewritten at once: bounds the memory of the temporary arrays."""

END = -1
"""Stands after every word in the array of tokens, so that no pair reaches from one word into the next."""


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    *,
    processes: int | None = None,
    on_merge: Callable[[int], None] | None = None,
) -> BPE:
    """Learns `vocab_size` tokens, special tokens and the 256 bytes included, from documents that are read once.

    `on_merge` is told the size of the vocabulary after every merge. `processes`: see `count_words`.
    UserError where the text has too few different pairs for so many tokens, or `vocab_size` has no room for the bytes.
    """
    vocabulary = _Vocabulary(special_tokens)
    if vocab_size < len(vocabulary.tokens):
        raise UserError(
            f"vocab_size is {vocab_size}, expected at least {len(vocabulary.tokens)}: "
            f"the 256 bytes and {len(special_tokens)} special tokens"
        )
    words = _Words(count_words(texts, processes), vocabulary)
    queue = _PairQueue()
    for pairs, weights, places in words.pairs():
        queue.change(pairs, weights, places)
    queue.fill()
    merges: list[tuple[int, int]] = []
    while len(vocabulary.tokens) < vocab_size:
        if (best := queue.pop()) is None:
            raise UserError(
                f"vocab_size is {vocab_size}, but this text supports at most {len(vocabulary.tokens)} tokens: "
                "lower vocab_size or give more text"
            )
        left, right, places = best
        joined = vocabulary.join(left, right)
        merges.append((left, right))
        for block in _blocks(places):
            queue.change(*words.merge(block, left, right, joined))
        queue.fill()
        if on_merge is not None:
            on_merge(len(vocabulary.tokens))
    return vocabulary.model(merges)


class _Vocabulary:
    """Tokens by id, and ids by token."""

    def __init__(self, special_tokens: Sequence[str]) -> None:
        if len({*special_tokens, ""}) <= len(special_tokens):
            raise UserError(f"special tokens are {list(special_tokens)}, expected different texts, none of them empty")
        self.special_tokens = {text: token for token, text in enumerate(special_tokens)}
        self.tokens = [text.encode() for text in special_tokens]
        self.ids: dict[bytes, int] = {}
        for byte in sorted(BYTE_TO_CHAR, key=BYTE_TO_CHAR.__getitem__):
            self._add(bytes([byte]))

    def join(self, left: int, right: int) -> int:
        """The id of a new token, two others put together.

        No other pair makes the same bytes: wherever these bytes are exactly some tokens, only merges inside of them
        have happened, and those happened in the same order everywhere.
        """
        return self._add(self.tokens[left] + self.tokens[right])

    def model(self, merges: Iterable[tuple[int, int]]) -> BPE:
        """What has been learned, in bytes."""
        pairs = [(self.tokens[left], self.tokens[right]) for left, right in merges]
        return BPE(self.ids, pairs, self.special_tokens)

    def _add(self, token: bytes) -> int:
        assert token not in self.ids, token
        if to_printable(token) in self.special_tokens:
            raise UserError(
                f"special token {to_printable(token)!r} is also a piece of the text: "
                "choose one that no word contains, such as '<|name|>'"
            )
        self.ids[token] = len(self.tokens)
        self.tokens.append(token)
        return self.ids[token]


class _Words:
    """Every distinct word as token ids, one after the other in one array; merging shortens them in place.

    tokens   int32: word i is tokens[starts[i] : starts[i] + lengths[i]], its END included
    weights  int64: how often each word occurs
    """

    def __init__(self, counts: Counter[str], vocabulary: _Vocabulary) -> None:
        byte_ids = np.array([vocabulary.ids[bytes([byte])] for byte in range(256)], dtype=np.int32)
        self.weights = np.fromiter(counts.values(), np.int64, len(counts))
        sizes = np.fromiter((len(word.encode()) for word in counts), np.int64, len(counts))
        self.lengths = sizes + 1
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.tokens = np.full(self.lengths.sum(), END, np.int32)
        inside = np.ones(len(self.tokens), bool)
        inside[self.starts + sizes] = False
        self.tokens[inside] = byte_ids[np.frombuffer("".join(counts).encode(), np.uint8)]

    def pairs(self) -> Iterator[tuple[Array, Array, Array]]:
        """All pairs of neighbours, block by block: pairs, weights, words."""
        for block in _blocks(np.arange(len(self.lengths), dtype=np.int32)):
            index, owner = self._spread(block)
            tokens = self.tokens[index]
            at = np.flatnonzero((tokens[:-1] != END) & (tokens[1:] != END))
            words = block[owner[at]]
            yield _pack(tokens[at], tokens[at + 1]), self.weights[words], words

    def merge(self, places: Array, left: int, right: int, joined: int) -> tuple[Array, Array, Array, Array]:
        """Writes `joined` for `left, right` in the words `places`; which pairs that makes, in which words, and unmakes.

        -> made pairs, their weights, their words, unmade pairs (with the same weights), each (changes,).
        Occurrences are taken from left to right: what stands before one may be the `joined` of the one before it.
        """
        index, owner = self._spread(places)
        tokens = self.tokens[index]
        at = np.flatnonzero((tokens[:-1] == left) & (tokens[1:] == right))
        if left == right:
            at = _without_overlaps(at)
        before, after = tokens[at - 1], tokens[at + 2]  # at 0, -1 is the END of the last word
        before[1:][at[1:] == at[:-1] + 2] = joined
        has_before, has_after = before != END, after != END
        words = places[owner[at]]
        words = np.concatenate([words[has_before], words[has_after]])
        before, after = before[has_before], after[has_after]
        made = np.concatenate([_pack(before, joined), _pack(joined, after)])
        unmade = np.concatenate([_pack(before, left), _pack(right, after)])

        tokens[at] = joined
        self.lengths[places] -= np.bincount(owner[at], minlength=len(places))
        self.tokens[self._spread(places)[0]] = np.delete(tokens, at + 1)
        return made, self.weights[words], words, unmade

    def _spread(self, places: Array) -> tuple[Array, Array]:
        """Indices of all tokens of the words `places`, and for each of these the place of its word in `places`."""
        lengths = self.lengths[places]
        firsts = np.cumsum(lengths) - lengths
        owner = np.repeat(np.arange(len(places)), lengths)
        return np.arange(len(owner)) + (self.starts[places] - firsts)[owner], owner


class _PairQueue:
    """Pairs by falling count, then rising ids, each with the words it may be in. Counts in it may be stale."""

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._queue: list[tuple[int, int, Array]] = []  # (-count, pair, words), a pair once
        self._made: dict[int, list[Array]] = {}

    def change(self, made: Array, weights: Array, words: Array, unmade: Array | None = None) -> None:
        """Counts pairs that came up in words, and ones that went away."""
        everything, change = made, weights
        if unmade is not None:
            everything, change = np.concatenate([made, unmade]), np.concatenate([weights, -weights])
        pairs, where = np.unique(everything, return_inverse=True)
        changes = np.bincount(where, change, len(pairs)).astype(np.int64)  # sums in float64: exact below 2**53
        for pair, difference in zip(pairs.tolist(), changes.tolist(), strict=True):
            self._counts[pair] += difference
        for pair, places in _group(made, words):
            self._made.setdefault(pair, []).append(places)

    def fill(self) -> None:
        """Puts the pairs that came up since the last time into the queue."""
        for pair, places in self._made.items():
            if (count := self._counts[pair]) > 0:
                words = places[0] if len(places) == 1 else np.concatenate(places)
                heapq.heappush(self._queue, (-count, pair, words))
        self._made.clear()

    def pop(self) -> tuple[int, int, Array] | None:
        """The next pair to merge as its two tokens, and the words it may be in; None where no pair is left."""
        while self._queue:
            expected, pair, words = heapq.heappop(self._queue)
            count = self._counts[pair]
            if count == -expected:
                return (*divmod(pair, 2**32), words)
            if count > 0:
                heapq.heappush(self._queue, (-count, pair, words))
        return None


def _blocks(places: Array) -> Iterator[Array]:
    return (places[start : start + BLOCK_WORDS] for start in range(0, len(places), BLOCK_WORDS))


def _pack(left: Array | int, right: Array | int) -> Array:
    """Two ids as one number that sorts as the pair does."""
    return np.left_shift(left, 32, dtype=np.int64) + right


def _group(pairs: Array, words: Array) -> Iterator[tuple[int, Array]]:
    """Each distinct pair with the words it came up in, each word once."""
    order = np.lexsort((words, pairs))
    pairs, words = pairs[order], words[order]
    fresh = np.ones(len(pairs), bool)
    fresh[1:] = (pairs[1:] != pairs[:-1]) | (words[1:] != words[:-1])
    pairs, words = pairs[fresh], words[fresh]
    bounds = np.flatnonzero(np.diff(pairs, prepend=-1, append=-1))
    for pair, (start, end) in zip(pairs[bounds[:-1]].tolist(), itertools.pairwise(bounds.tolist()), strict=True):
        yield pair, words[start:end]


def _without_overlaps(at: Array) -> Array:
    """Of places that follow each other directly (as in "aaaa"), the first, third, fifth and so on of every run."""
    run_starts = np.flatnonzero(np.diff(at, prepend=-2) != 1)
    run_lengths = np.diff(run_starts, append=len(at))
    return at[(at - np.repeat(at[run_starts], run_lengths)) % 2 == 0]
