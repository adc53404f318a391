"""Learns a byte-level BPE vocabulary. Sennrich et al. 2016, arXiv:1508.07909, algorithm 1, made incremental.

Repeatedly the most frequent pair of neighbouring tokens becomes a new token. **Ties** go to the pair with the smaller
left id, then the smaller right id; ids are special tokens first, then the 256 bytes ordered by their printable
characters (`pretokenize.BYTE_TO_CHAR`), then learned tokens in order. So the merges are those of Hugging Face
`tokenizers` (its `bpe/trainer.rs`), and they do not depend on the order of the documents.

How the pairs are found without counting anew after every merge stands in `merging.py`.

Left out: `min_frequency`, limits on the alphabet and on the length of a token.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from vesalius.core.errors import UserError
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.merging import most_frequent_pairs
from vesalius.tokenizers.pretokenize import BYTE_TO_CHAR, to_printable
from vesalius.tokenizers.word_counts import count_words


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
    merges: list[tuple[int, int]] = []
    pairs = _pairs(count_words(texts, processes), vocabulary)
    for left, right in itertools.islice(pairs, vocab_size - len(vocabulary.tokens)):
        vocabulary.join(left, right)
        merges.append((left, right))
        if on_merge is not None:
            on_merge(len(vocabulary.tokens))
    if len(vocabulary.tokens) < vocab_size:
        raise UserError(
            f"vocab_size is {vocab_size}, but this text supports at most {len(vocabulary.tokens)} tokens: "
            "lower vocab_size or give more text"
        )
    return vocabulary.model(merges)


def _pairs(counts: Counter[str], vocabulary: "_Vocabulary") -> Iterator[tuple[int, int]]:
    """The pairs of tokens to join, in order; each makes the next token of the vocabulary."""
    byte_ids = np.array([vocabulary.ids[bytes([byte])] for byte in range(256)], dtype=np.int32)
    return most_frequent_pairs(
        byte_ids[np.frombuffer("".join(counts).encode(), np.uint8)],
        np.fromiter((len(word.encode()) for word in counts), np.int64, len(counts)),
        np.fromiter(counts.values(), np.int64, len(counts)),
        len(vocabulary.tokens),
    )


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
