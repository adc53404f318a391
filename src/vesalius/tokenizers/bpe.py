"""Byte-level byte-pair encoding: the model, and encoding by hand. Sennrich et al. 2016, arXiv:1508.07909.

Every byte is a token, so any bytes can be encoded and nothing is ever unknown. Encoding a piece repeats the earliest
learned merge that applies, the leftmost first. Searching the whole piece for it each time is quadratic. Here the tokens
are a doubly linked list, and a heap gives the next merge with all the places that wait for it: a merge makes only pairs
with its new token, which were learned later, so none can come too late. A piece of n bytes takes O(n log n).

This is the readable truth that the fast encoder (`tokenizer.py`) is tested against. `sample` leaves merges out at
random (BPE-dropout, Provilkov et al. 2020, arXiv:1910.13267), so that a model meets a word in many splits. The
library's `dropout` gives whole tokens more often than the paper's algorithm.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from vesalius.tokenizers.pretokenize import pretokenize, replace_surrogates

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The document boundary, and the marks around a turn of a chat; ids 0, 1, 2."""

GONE = -1
"""Stands where a token was joined to its left neighbour, and after the last token and before the first one."""


@dataclass(frozen=True)
class BPE:
    """A learned vocabulary.

    vocab           bytes of each token -> id, special tokens left out
    merges          pairs of tokens in the order in which they are to be joined
    special_tokens  text -> id; encoding never produces them
    """

    vocab: dict[bytes, int]
    merges: list[tuple[bytes, bytes]]
    special_tokens: dict[str, int]

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text, or of any bytes, valid UTF-8 or not; the bytes of the ids joined are the bytes that went in.

        Text that is no Unicode (lone surrogates) goes through `replace_surrogates` first, as in `Tokenizer.encode`.
        """
        text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else replace_surrogates(text)
        pieces = (piece.encode("utf-8", "surrogateescape") for piece in pretokenize(text))
        return [token for piece in pieces for token in self._encode_piece(piece)]

    def sample(self, text: str, generator: random.Random, dropout: float = 0.1) -> list[int]:
        """Ids of a random split, for training texts only: Provilkov's algorithm 1.

        Before every merge each pair that could be joined is left out with probability `dropout`, anew each time; of the
        others the earliest learned is joined, until all are left out. 0 is `encode`, 1 gives bytes. The paper takes
        0.1, and 0.6 for Chinese and Japanese. ValueError where `dropout` is no probability.
        """
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be between 0 and 1, got {dropout}")
        pieces = (piece.encode() for piece in pretokenize(replace_surrogates(text)))
        return [token for piece in pieces for token in self._merge_some(piece, generator, dropout)]

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for."""
        return b"".join(self._tokens[token] for token in ids)

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        specials = {token: text.encode() for text, token in self.special_tokens.items()}
        return {token: piece for piece, token in self.vocab.items()} | specials

    @cached_property
    def _joins(self) -> dict[tuple[int, int], int]:
        """A pair of ids -> its rank among the merges."""
        return {(self.vocab[left], self.vocab[right]): rank for rank, (left, right) in enumerate(self.merges)}

    @cached_property
    def _joined(self) -> list[int]:
        """The id that each merge makes, by rank."""
        return [self.vocab[left + right] for left, right in self.merges]

    @cached_property
    def _encode_piece(self) -> Callable[[bytes], list[int]]:
        """`_merge_piece` with a memory: most pieces of a text are words that came before."""
        return lru_cache(maxsize=2**16)(self._merge_piece)

    def _merge_some(self, piece: bytes, generator: random.Random, dropout: float) -> list[int]:
        joins, tokens = self._joins, [self.vocab[piece[i : i + 1]] for i in range(len(piece))]
        while True:
            known = ((joins[pair], at) for at, pair in enumerate(itertools.pairwise(tokens)) if pair in joins)
            kept = [merge for merge in known if generator.random() >= dropout]
            if not kept:
                return tokens
            rank, at = min(kept)
            tokens[at : at + 2] = [self._joined[rank]]

    def _merge_piece(self, piece: bytes) -> list[int]:
        joins, end = self._joins, len(piece)
        tokens = [self.vocab[piece[i : i + 1]] for i in range(end)] + [GONE]
        before, after = list(range(-1, end)), list(range(1, end + 1))
        waiting: dict[int, list[int]] = {}  # rank of a merge -> places of the left tokens that it may join
        ranks: list[int] = []  # heap of the keys of `waiting`

        def offer(left: int, right: int) -> None:
            if (rank := joins.get((tokens[left], tokens[right]))) is not None:
                if rank not in waiting:
                    waiting[rank] = []
                    heapq.heappush(ranks, rank)
                waiting[rank].append(left)

        for place in range(end - 1):
            offer(place, place + 1)
        while ranks:
            rank = heapq.heappop(ranks)
            for left in sorted(waiting.pop(rank)):
                right = after[left]
                if joins.get((tokens[left], tokens[right])) != rank:
                    continue  # one of the two has been joined to another token since
                tokens[left], tokens[right] = self._joined[rank], GONE
                after[left] = after[right]
                before[after[left]] = left
                offer(left, after[left])
                offer(before[left], left)
        return [token for token in tokens if token != GONE]
