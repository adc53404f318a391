"""Vocabularies without learned pieces: bytes, and characters. What the others are measured against.

Bytes need no text to learn from and are never unknown; a text is as long as its UTF-8, which asks 3 tokens for each
Chinese character (ByT5, Xue et al. 2022, arXiv:2105.13626). They are a BPE without merges.

Characters are a Unigram vocabulary of pieces of length one: those of the text, and bytes for all others.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.pretokenize import BYTE_TO_CHAR, replace_surrogates
from vesalius.tokenizers.unigram.model import ALWAYS_PIECES, Unigram, with_hidden


def byte_vocabulary(special_tokens: Sequence[str] = SPECIAL_TOKENS) -> BPE:
    """Special tokens, then the 256 bytes with the ids that they have in every byte-level BPE of ours."""
    ordered = sorted(BYTE_TO_CHAR, key=BYTE_TO_CHAR.__getitem__)
    first = len(special_tokens)
    vocab = {bytes([byte]): first + place for place, byte in enumerate(ordered)}
    return BPE(vocab, [], {text: token for token, text in enumerate(special_tokens)})


def learn_characters(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> Unigram:
    """The most frequent characters of the texts, as many as fit into `vocab_size` beside the special tokens, the
    unknown piece and the bytes; printable ASCII is always there.

    UserError where there is no room for that.
    """
    counts: Counter[str] = Counter(dict.fromkeys(sorted(ALWAYS_PIECES), 1))
    for text in texts:
        counts.update(replace_surrogates(text).replace(" ", BLANK))
    hidden = len(with_hidden([], special_tokens).pieces)
    if vocab_size < hidden + len(ALWAYS_PIECES):
        raise UserError(
            f"vocab_size is {vocab_size}, expected at least {hidden + len(ALWAYS_PIECES)}: {hidden} special tokens and "
            f"bytes, and {len(ALWAYS_PIECES)} characters of ASCII"
        )
    rest = sorted(counts.keys() - ALWAYS_PIECES, key=lambda character: (-counts[character], character))
    kept = itertools.chain(ALWAYS_PIECES, rest[: vocab_size - hidden - len(ALWAYS_PIECES)])
    ordered = sorted(kept, key=lambda character: (-counts[character], character))
    total = sum(map(counts.__getitem__, ordered))
    return with_hidden([(character, math.log(counts[character] / total)) for character in ordered], special_tokens)
