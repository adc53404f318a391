"""`tokenizer.model`, SentencePiece's own file, of directories that have no tokenizer.json.

The file is a protocol buffer (sentencepiece, `src/sentencepiece_model.proto`): pieces with scores and kinds, and what
was done to the text before. It is read here as the keys that a GGUF file has for the same (their numbers for the kinds
of tokens are SentencePiece's), so that both come to one tokenizer. Tokens that were added to a model later stand in
tokenizer_config.json, or in added_tokens.json of older directories.

Left out: word and character models, and blanks behind words in place of before them.
"""

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vesalius.core.errors import UserError
from vesalius.core.files import read_json
from vesalius.tokenizers.backends import BLANK
from vesalius.tokenizers.gguf.keys import CONTROL, NORMAL, PREFIX, USER_DEFINED
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.tokenizer import Tokenizer, read_tokenizer_config

FILE = "tokenizer.model"

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
"""Wire types of protocol buffers."""

PIECES, TRAINER, NORMALIZER = 1, 2, 3
"""Fields of the file."""

MODELS = {1: "t5", 2: "llama"}
"""`trainer_spec.model_type`, Unigram or BPE, as `tokenizer.ggml.model`."""

IDS = {40: ("unknown_token_id", 0), 41: ("bos_token_id", 1), 42: ("eos_token_id", 2), 43: ("padding_token_id", -1)}
"""Fields of `trainer_spec`: the key, and what it is where the file doesn't say; -1 for none."""


def open_tokenizer(directory: Path | str) -> Tokenizer:
    """The tokenizer of a Hugging Face directory: tokenizer.json, or SentencePiece's file where there is none.

    UserError where neither is there, or the file cannot be read.
    """
    file = Path(directory) / FILE
    if (Path(directory) / "tokenizer.json").is_file() or not file.is_file():
        return Tokenizer.open(directory)
    config, ends = read_tokenizer_config(directory)
    metadata = metadata_of_sentencepiece(file.read_bytes(), where=str(file))
    metadata |= _with_added(metadata, _added_tokens(Path(directory), config))
    read = tokenizer_from_gguf(metadata)
    return Tokenizer(read.backend, read.config | config, ends)


def metadata_of_sentencepiece(data: bytes, where: str = FILE) -> dict[str, Any]:
    """What a GGUF file would say of this vocabulary. UserError where `data` is no SentencePiece model, or of a kind
    that no language model has."""
    try:
        fields = list(_fields(data))
        pieces = [dict(_fields(value)) for number, value in fields if number == PIECES]
        trainer, normalizer = (dict(_fields(_only(fields, number))) for number in (TRAINER, NORMALIZER))
        kinds = [piece.get(3, NORMAL) for piece in pieces]
        tokens = [_text(piece[1].decode(), kind) for piece, kind in zip(pieces, kinds, strict=True)]
        scores = [struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0 for piece in pieces]
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError, ValueError, struct.error) as error:
        raise UserError(f"{where} is not a SentencePiece model ({error}): it is damaged, get it again") from error
    kind = trainer.get(3, 1)
    if kind not in MODELS or trainer.get(24) or not normalizer.get(5, 1):
        raise UserError(f"{where} is a SentencePiece model of a kind that is not supported: only BPE and Unigram are")
    ids = {key: _signed(trainer.get(number, default)) for number, (key, default) in IDS.items()}
    values = {
        "model": MODELS[kind],
        "tokens": tokens,
        "scores": scores,
        "token_type": kinds,
        "precompiled_charsmap": list(normalizer.get(2, b"")),
        "add_space_prefix": bool(normalizer.get(3, 1)),
        "remove_extra_whitespaces": bool(normalizer.get(4, 1)),
        "add_bos_token": MODELS[kind] == "llama" and ids["bos_token_id"] >= 0,
        "add_eos_token": False,
        **{key: number if number >= 0 else None for key, number in ids.items()},
    }
    return {PREFIX + key: value for key, value in values.items()}


def _text(piece: str, kind: int) -> str:
    """User-defined pieces are found in the text as it is, before its spaces become "▁"."""
    return piece.replace(BLANK, " ") if kind == USER_DEFINED else piece


def _with_added(metadata: Mapping[str, Any], added: Mapping[int, tuple[str, bool]]) -> dict[str, Any]:
    """The keys that change with tokens added to a vocabulary: id -> its text and whether it is special."""
    tokens, types, scores = (list(metadata[PREFIX + name]) for name in ("tokens", "token_type", "scores"))
    for number, (text, special) in sorted(added.items()):
        if number > len(tokens):
            raise UserError(f"the added token {text!r} has id {number}, expected {len(tokens)}: the ids have a gap")
        if number == len(tokens):
            tokens.append(text)
            types.append(NORMAL)
            scores.append(0.0)
        if types[number] in (NORMAL, USER_DEFINED):
            types[number] = CONTROL if special else USER_DEFINED
    return {PREFIX + "tokens": tokens, PREFIX + "token_type": types, PREFIX + "scores": scores}


def _added_tokens(directory: Path, config: Mapping[str, Any]) -> dict[int, tuple[str, bool]]:
    if "added_tokens_decoder" in config:
        entries = config["added_tokens_decoder"].items()
        return {int(number): (entry["content"], bool(entry.get("special"))) for number, entry in entries}
    older = directory / "added_tokens.json"
    return {number: (text, True) for text, number in read_json(older).items()} if older.is_file() else {}


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers of fields and their values: an int for a varint, else bytes. IndexError or ValueError for other data."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            size = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"{size} bytes at byte {at}, {len(data) - at} are left")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits a byte and the lowest first, and where it ends."""
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError(f"a number at byte {at} has no end")


def _signed(number: int) -> int:
    """A varint of a signed field: negative ones are written as 64-bit two's complement."""
    return number - 2**64 if number >= 2**63 else number


def _only(fields: list[tuple[int, Any]], wanted: int) -> bytes:
    return next((value for number, value in fields if number == wanted), b"")
