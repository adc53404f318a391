"""A tokenizer as `tokenizer.model`, the file that the `sentencepiece` library loads and gives the same ids with.

The content is that of the GGUF keys (`gguf/writing.py`) as a protocol buffer: what `sentencepiece_file.py` reads. What
GGUF cannot say is refused there; byte-level vocabularies, which SentencePiece doesn't have, are refused here.

Added tokens that are special become control pieces, which no text gives in that library.
Left out: settings that only a trainer would read again.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError
from vesalius.core.files import atomic_write
from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.gguf.keys import BYTE, PREFIX, UNKNOWN, USER_DEFINED
from vesalius.tokenizers.gguf.writing import gguf_metadata_of
from vesalius.tokenizers.sentencepiece_file import BYTES, FOUR_BYTES, IDS, MODELS, NORMALIZER, PIECES, TRAINER, VARINT
from vesalius.tokenizers.tokenizer import Tokenizer

PIECE_TEXTS = 5
"""How much larger the numbers of the fields are that hold the texts of these pieces, from which the library takes the
ids."""


def save_sentencepiece(path: Path | str, tokenizer: Tokenizer) -> None:
    """Writes the file. UserError where SentencePiece cannot say what the tokenizer does."""
    atomic_write(path, sentencepiece_of_metadata(gguf_metadata_of(tokenizer)))


def sentencepiece_of_metadata(metadata: Mapping[str, Any]) -> bytes:
    """The file of a vocabulary as GGUF's keys describe it: the inverse of `metadata_of_sentencepiece`.

    UserError where the vocabulary is not SentencePiece's, or has no unknown token, which the library asks for.
    """
    keys = {key.removeprefix(PREFIX): value for key, value in metadata.items()}
    kinds = {name: number for number, name in MODELS.items()}
    if keys["model"] not in kinds:
        raise UserError(
            "SentencePiece has no byte-level vocabularies, and this tokenizer is one: save it as tokenizer.json"
        )
    if UNKNOWN not in keys["token_type"]:
        raise UserError("SentencePiece needs an unknown token, this tokenizer has none: save it as tokenizer.json")
    known = {**keys, "unknown_token_id": keys["token_type"].index(UNKNOWN)}
    ids = {number: known.get(name) for number, (name, _) in IDS.items()}
    trainer = [
        (3, kinds[keys["model"]]),
        (4, len(keys["tokens"])),
        (35, BYTE in keys["token_type"]),
        *((number, -1 if token is None else token) for number, token in ids.items()),
        *((PIECE_TEXTS + number, keys["tokens"][token]) for number, token in ids.items() if token is not None),
    ]
    normalizer = [
        (1, "custom" if len(keys.get("precompiled_charsmap", ())) else "identity"),
        (2, bytes(keys.get("precompiled_charsmap", ()))),
        (3, keys["add_space_prefix"]),
        (4, keys.get("remove_extra_whitespaces", False)),
        (5, True),
    ]
    pieces = zip(keys["tokens"], keys["scores"], keys["token_type"], strict=True)
    parts = [_field(PIECES, _piece(*piece)) for piece in pieces]
    return b"".join([*parts, _field(TRAINER, _message(trainer)), _field(NORMALIZER, _message(normalizer))])


def _piece(text: str, score: float, kind: int) -> bytes:
    """User-defined pieces have spaces in GGUF."""
    return _message([(1, text.replace(" ", BLANK) if kind == USER_DEFINED else text), (2, float(score)), (3, kind)])


def _message(fields: list[tuple[int, Any]]) -> bytes:
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: float | str | bytes) -> bytes:
    if isinstance(value, float):
        return _varint(number << 3 | FOUR_BYTES) + struct.pack("<f", value)
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64-bit two's complement."""
    number %= 2**64
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
