"""Learns a WordPiece vocabulary: by the merges of BPE over characters, as Hugging Face `tokenizers` does.

The first character of a word and one inside of it are different symbols ("a", "##a"); the most frequent pair of
neighbours becomes a new piece until there are enough (`merging.py`). The merges themselves are not kept.

Ids are special tokens, the unknown token, characters, characters with "##", both in Unicode's order, then pieces as
they were learned. `tokenizers` numbers characters with "##" in the order of a hash table, so that two runs of it differ
where pairs tie; given these numbers it learns what is learned here.

Left out: Schuster & Nakajima's own criterion, the pair that makes the text likeliest, which was never published whole.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from vesalius.core.errors import UserError
from vesalius.tokenizers.bpe import SPECIAL_TOKENS
from vesalius.tokenizers.merging import most_frequent_pairs
from vesalius.tokenizers.pretokenize import replace_surrogates
from vesalius.tokenizers.wordpiece.model import PREFIX, UNKNOWN, WordPiece, words_of

MOST_CHARACTERS = 1000
"""The most frequent ones are pieces; words with others are unknown."""


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    *,
    normalizer: str = "bert",
    on_merge: Callable[[int], None] | None = None,
) -> WordPiece:
    """Learns `vocab_size` tokens, special tokens and the unknown one included.

    UserError where the text has too few pieces for so many tokens, or `vocab_size` no room for its characters.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(words_of(replace_surrogates(text), normalizer))
    first = [*special_tokens, UNKNOWN]
    tokens = learn_wordpieces(counts, vocab_size, first, on_merge)
    if len(tokens) < vocab_size:
        raise UserError(
            f"vocab_size is {vocab_size}, but this text supports at most {len(tokens)} tokens: "
            "lower vocab_size or give more text"
        )
    vocab = {text: token for token, text in enumerate(tokens)}
    if len(vocab) < len(tokens) or "" in vocab:
        raise UserError(
            f"special tokens are {list(special_tokens)}, expected different texts, none of them empty or a piece of "
            "the text: choose such as '<|name|>'"
        )
    return WordPiece(vocab, {text: vocab[text] for text in special_tokens}, normalizer)


def learn_wordpieces(
    counts: Mapping[str, int], size: int, first: Sequence[str], on_merge: Callable[[int], None] | None = None
) -> list[str]:
    """At most `size` tokens of these words, by id: `first`, characters, pieces. Fewer where no pairs are left.

    UserError where `first` and the characters are more than `size`.
    """
    letters = _most_frequent_characters(counts)
    words: Counter[str] = Counter()
    for word, count in counts.items():
        words["".join(filter(letters.__contains__, word))] += count
    inner = {PREFIX + character for word in words for character in word[1:]}
    tokens = [*first, *sorted(letters), *sorted(inner)]
    if len(tokens) > size:
        raise UserError(
            f"vocab_size is {size}, expected at least {len(tokens)}: {len(first)} special tokens, and the characters "
            "of this text at the beginning of words and inside"
        )
    for left, right in itertools.islice(_pairs(words, tokens, len(first)), size - len(tokens)):
        tokens.append(tokens[left] + tokens[right].removeprefix(PREFIX))
        if on_merge is not None:
            on_merge(len(tokens))
    return tokens


def _pairs(words: Mapping[str, int], tokens: Sequence[str], first: int) -> Iterator[tuple[int, int]]:
    """The pairs to join, where the tokens from `first` on are characters."""
    symbols = {text: first + place for place, text in enumerate(tokens[first:])}
    written = (
        symbols[PREFIX + character if place else character] for word in words for place, character in enumerate(word)
    )
    return most_frequent_pairs(
        np.fromiter(written, np.int32),
        np.fromiter(map(len, words), np.int64, len(words)),
        np.fromiter(words.values(), np.int64, len(words)),
        len(tokens),
    )


def _most_frequent_characters(counts: Mapping[str, int]) -> frozenset[str]:
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        for character in word:
            letters[character] += count
    ordered = sorted(letters, key=lambda character: (-letters[character], character))
    return frozenset(ordered[:MOST_CHARACTERS])
