"""WordPiece: a word is cut from the left into the longest pieces that there are. Schuster & Nakajima 2012; Wu et al.
2016, arXiv:1609.08144; Devlin et al. 2019, `tokenization.py: WordpieceTokenizer`.

Pieces that go on with a word are written with "##" before them. A word that comes to a place where no piece fits is
unknown as a whole. Blanks between words are not kept, so a text doesn't come back as it was: BERT's vocabulary is one
to read with, and less one to write with.

The greedy choice is not the most probable split, nor the one of the merges that were learned; it needs no scores.
Left out: the automaton that does it in linear time (Song et al. 2021, arXiv:2012.15524).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from vesalius.tokenizers.normalizers import normalize
from vesalius.tokenizers.pretokenize import replace_surrogates
from vesalius.tokenizers.splitters import split

PREFIX = "##"
UNKNOWN = "[UNK]"

LONGEST_WORD = 100
"""Longer words are unknown, in BERT and in `tokenizers`."""


@dataclass(frozen=True)
class WordPiece:
    """A vocabulary.

    vocab           text of each token -> id; special tokens and UNKNOWN are in it
    special_tokens  text -> id; encoding never produces them
    normalizer      "bert" or "bert_uncased"
    """

    vocab: Mapping[str, int]
    special_tokens: Mapping[str, int]
    normalizer: str

    def encode(self, text: str) -> list[int]:
        """Ids of a text. Lone surrogates become U+FFFD, as in `Tokenizer.encode`, and are cleaned away."""
        return [token for word in words_of(replace_surrogates(text), self.normalizer) for token in self._word(word)]

    def _word(self, word: str) -> list[int]:
        unknown = [self.vocab[UNKNOWN]]
        if len(word) > LONGEST_WORD:
            return unknown
        pieces: list[int] = []
        start = 0
        while start < len(word):
            ends = range(min(len(word), start + self._longest), start, -1)
            prefix = PREFIX if start else ""
            end = next((end for end in ends if prefix + word[start:end] in self.vocab), None)
            if end is None:
                return unknown
            pieces.append(self.vocab[prefix + word[start:end]])
            start = end
        return pieces

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.vocab))


def words_of(text: str, normalizer: str) -> list[str]:
    """The words and signs that WordPiece cuts further."""
    return split(normalize(text, [normalizer]), "bert")
