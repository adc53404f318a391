"""The kinds of tokenizers that can be learned from a text, by the name in a recipe: `[tokenizer] kind = "unigram"`.

bpe        byte-level byte-pair encoding: what GPT, Llama 3 and Qwen have
unigram    the most probable split, with bytes for rare characters: what T5, ALBERT and XLNet have
wordpiece  the longest piece that fits, word by word: what BERT has. Blanks and rare characters are lost, so a text does
           not come back as it was, and no recipe of a model that writes text takes it
char       one token a character, at most as many as asked for
byte       one token a byte
"""

from collections.abc import Callable, Iterable, Sequence

from vesalius.core.errors import UserError, nearest
from vesalius.tokenizers.bpe import SPECIAL_TOKENS
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.normalizers import check_normalizers, normalize, put_normalizers
from vesalius.tokenizers.pretokenize import replace_surrogates
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.tokenizers.unigram.training import train_unigram
from vesalius.tokenizers.untrained import byte_vocabulary, learn_characters
from vesalius.tokenizers.wordpiece.training import train_wordpiece

BYTE_SIZE = 256 + len(SPECIAL_TOKENS)
"""Tokens of the kind "byte"."""

Advance = Callable[[int], None]


def train_tokenizer(
    kind: str,
    texts: Iterable[str],
    vocab_size: int,
    on_progress: Advance | None = None,
    *,
    normalizers: Sequence[str] = (),
) -> Tokenizer:
    """Learns a tokenizer of a kind from documents that are read once.

    `on_progress` is told how many of `vocab_size` tokens are done. `normalizers` are names of `normalizers.py`: rules
    that every text is rewritten by first. UserError where there is no such kind or rule, or the text or the kind does
    not allow so many tokens.
    """
    if kind not in KINDS:
        raise UserError(f"unknown kind of tokenizer {kind!r}: {nearest(kind, KINDS)}")
    check_normalizers(normalizers)
    normal = (normalize(replace_surrogates(text), normalizers) for text in texts)
    tokenizer = KINDS[kind](normal, vocab_size, on_progress or (lambda _: None))
    put_normalizers(tokenizer.backend, normalizers)
    return tokenizer


def _bpe(texts: Iterable[str], vocab_size: int, advance: Advance) -> Tokenizer:
    return Tokenizer.from_bpe(train_bpe(texts, vocab_size, on_merge=advance))


def _unigram(texts: Iterable[str], vocab_size: int, advance: Advance) -> Tokenizer:
    learned = train_unigram(texts, vocab_size, on_progress=lambda part: advance(int(part * vocab_size)))
    return Tokenizer.from_unigram(learned)


def _wordpiece(texts: Iterable[str], vocab_size: int, advance: Advance) -> Tokenizer:
    return Tokenizer.from_wordpiece(train_wordpiece(texts, vocab_size, on_merge=advance))


def _char(texts: Iterable[str], vocab_size: int, advance: Advance) -> Tokenizer:
    tokenizer = Tokenizer.from_unigram(learn_characters(texts, vocab_size))
    advance(vocab_size)
    return tokenizer


def _byte(_: Iterable[str], vocab_size: int, advance: Advance) -> Tokenizer:
    if vocab_size != BYTE_SIZE:
        raise UserError(f"vocab_size is {vocab_size}, a tokenizer of bytes has {BYTE_SIZE}: leave vocab_size out")
    advance(vocab_size)
    return Tokenizer.from_bpe(byte_vocabulary())


KINDS: dict[str, Callable[[Iterable[str], int, Advance], Tokenizer]] = {
    "bpe": _bpe,
    "unigram": _unigram,
    "wordpiece": _wordpiece,
    "char": _char,
    "byte": _byte,
}
