"""Small vocabularies of every kind, trained on a few sentences."""

import io
from pathlib import Path

import sentencepiece

from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.gguf.writing import gguf_metadata_of
from vesalius.tokenizers.sentencepiece_file import FILE, open_tokenizer
from vesalius.tokenizers.tokenizer import Tokenizer

TEXTS = [
    "the cat sees a dog and runs home",
    "a dog sees the cat; the cat, though, sees 1234567890 dogs",
    "é 🙂 and so on, again and again",
    '{"name": "Ann", "age": 12, "tags": ["a", "b"], "ok": true, "none": null, "x": -1.5e3, "no": false}',
    '[\n  {"id": 1},\n  {"id": 2}\n]',
    "abc abab aabb 2024-01-31 12:34:56 yes no maybe red green blue",
]


def bytes_only(special: tuple[str, ...] = SPECIAL_TOKENS) -> Tokenizer:
    """Every token is a byte."""
    pieces = {bytes([byte]): byte + len(special) for byte in range(256)}
    return Tokenizer.from_bpe(BPE(pieces, [], {text: number for number, text in enumerate(special)}))


def byte_level() -> Tokenizer:
    return Tokenizer.from_bpe(train_bpe(TEXTS * 10, 370))


def sentencepiece_bpe(directory: Path) -> Tokenizer:
    """With a blank before a text, which decoding drops."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 10), model_writer=file, model_type="bpe", vocab_size=420, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, normalization_rule_name="identity", remove_extra_whitespaces=False,
    )  # fmt: skip
    (directory / FILE).write_bytes(file.getvalue())
    return open_tokenizer(directory)


def as_gguf(tokenizer: Tokenizer) -> Tokenizer:
    """The same after it was written to a GGUF file."""
    return tokenizer_from_gguf(gguf_metadata_of(tokenizer))
