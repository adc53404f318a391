"""A Unigram vocabulary, and encoding by hand. Kudo 2018, arXiv:1804.10959; SentencePiece, arXiv:1808.06226.

A vocabulary is a list of pieces with log-probabilities. A text becomes the pieces of its most probable split, where
byte-pair encoding replays the merges that it learned: rare words come apart at better places, and other splits of the
same text have a probability too, so that training can draw one (subword regularisation, `sample`).

As in SentencePiece a space is written "▁", and text is not cut first: no piece was learned across the end of a word,
so that none is found there. A character without a piece becomes the bytes of its UTF-8; so any text can be encoded and
comes back as it was, but for "▁" itself, which comes back as a space.

Special tokens, bytes and the unknown piece stand in the vocabulary with a score so low that no text gives them.
This is the readable truth that the fast encoder (`tokenizer.py`) is tested against.
"""

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import BLANK, BYTE_TOKEN
from vesalius.tokenizers.pretokenize import replace_surrogates
from vesalius.tokenizers.unigram.lattice import Edge, Lattice

UNKNOWN = "<unk>"
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))

ALWAYS_PIECES = frozenset(map(chr, range(0x21, 0x7F))) | {BLANK}
"""Pieces of every vocabulary of ours: what looks like "<unk>" or "<0x41>" is always best split into these."""

HIDDEN_SCORE = -1e4
"""Of pieces that no text is to give. Any split into characters that the vocabulary knows is better."""

SCORE_STEPS = 64
"""Scores are whole multiples of 1/64 nat: so their sums are exact in float32, in which SentencePiece adds, up to 2**18,
about forty thousand tokens. Equally good splits, such as those of a run of blanks, are then as equal there as here."""

UNKNOWN_PENALTY = 10.0
"""How far below the least score an unknown character is, in SentencePiece and in `tokenizers`."""


def with_hidden(learned: Iterable[tuple[str, float]], special_tokens: Sequence[str]) -> "Unigram":
    """The vocabulary of special tokens, the unknown piece, the 256 bytes and then the pieces that were learned, with
    scores rounded to SCORE_STEPS.

    UserError where a special token is also one of these.
    """
    hidden = [*special_tokens, UNKNOWN, *BYTE_PIECES]
    pieces = [(piece, HIDDEN_SCORE) for piece in hidden]
    pieces += [(piece, round(score * SCORE_STEPS) / SCORE_STEPS) for piece, score in learned]
    for text in special_tokens:
        if not text or sum(piece == text for piece, _ in pieces) > 1:
            raise UserError(
                f"special token {text!r} is empty or also another piece: choose different ones that no word contains, "
                "such as '<|name|>'"
            )
    return Unigram(pieces, {text: token for token, text in enumerate(special_tokens)}, len(special_tokens))


@dataclass(frozen=True)
class Unigram:
    """A vocabulary, learned or read.

    pieces          text and log-probability of each token, by id
    special_tokens  text -> id, the unknown piece left out; encoding never produces them
    unknown_id      stands for what neither a piece nor bytes can say
    """

    pieces: Sequence[tuple[str, float]]
    special_tokens: dict[str, int]
    unknown_id: int

    def encode(self, text: str) -> list[int]:
        """Ids of the most probable split. Lone surrogates become U+FFFD, as in `Tokenizer.encode`."""
        lattice = self.lattice(text)
        return self._ids(lattice.text, lattice.best())

    def sample(self, text: str, generator: random.Random, inverse_temperature: float = 0.1) -> list[int]:
        """Ids of a random split, for a model that is to know a word in all its forms. Kudo 2018, section 3.2.

        `inverse_temperature` is the paper's α, with the value that it takes for a translation model.
        """
        lattice = self.lattice(text)
        return self._ids(lattice.text, lattice.sample(generator, inverse_temperature))

    def n_best(self, text: str, count: int) -> list[tuple[float, list[int]]]:
        """The `count` most probable splits: log-probability and ids."""
        lattice = self.lattice(text)
        return [(split.score, self._ids(lattice.text, split.edges)) for split in lattice.n_best(count)]

    def lattice(self, text: str) -> Lattice:
        """All splits of a text."""
        written = replace_surrogates(text).replace(" ", BLANK)
        unknown = min(score for _, score in self.pieces) - UNKNOWN_PENALTY
        return Lattice(written, self._scores, unknown, self._longest)

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token; a special token's are its text."""
        piece, _ = self.pieces[token]
        if piece in self.special_tokens:
            return piece.encode()
        return bytes([int(piece[3:5], 16)]) if BYTE_TOKEN.fullmatch(piece) else piece.replace(BLANK, " ").encode()

    @cached_property
    def _hidden(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values()) | {self.unknown_id} | set(self._bytes or ())

    @cached_property
    def _scores(self) -> dict[str, float]:
        """Piece -> score, for those that text may give."""
        return {piece: score for token, (piece, score) in enumerate(self.pieces) if token not in self._hidden}

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {piece: token for token, (piece, _) in enumerate(self.pieces)}

    @cached_property
    def _bytes(self) -> list[int] | None:
        """The ids of the 256 bytes; None where the vocabulary lacks them."""
        tokens = self._tokens
        return [tokens[piece] for piece in BYTE_PIECES] if tokens.keys() >= set(BYTE_PIECES) else None

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._scores), default=1)

    def _ids(self, text: str, edges: Iterable[Edge]) -> list[int]:
        """Tokens of a split. Unknown characters next to each other are one unknown token where there are no bytes."""
        ids: list[int] = []
        for known, run in itertools.groupby((text[edge.start : edge.end] for edge in edges), self._scores.__contains__):
            if known:
                ids.extend(map(self._tokens.__getitem__, run))
            elif self._bytes is None:
                ids.append(self.unknown_id)
            else:
                ids.extend(self._bytes[byte] for byte in "".join(run).encode())
        return ids
