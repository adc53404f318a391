"""The keys that describe a tokenizer in the metadata of a GGUF file, read and checked.

A file may come from anyone: whatever a key holds, the answer is a value of the kind that is expected, or a UserError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vesalius.core.errors import UserError
from vesalius.tokenizers.backends import BYTE_TOKEN

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
TEMPLATE_NAMES = "tokenizer.chat_templates"

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of tokens: `tokenizer.ggml.token_type`."""

NAMED_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # so it is spelled in the format
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}
"""What transformers calls a special token -> the end of the key that holds its id."""

END_IDS = ("eot_token_id", "eom_token_id")
"""Tokens that end an answer besides eos: end of turn, end of message."""

END_TOKENS = frozenset(
    ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>"]
) | {"<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[EOT]", "<end_of_utterance>", "<｜end▁of▁sentence｜>"}
"""Tokens that end an answer whether a key names them or not: files have one key for what may be several tokens."""

HARMONY = frozenset(["<|return|>", "<|call|>", "<|end|>"])
"""Where all three are, <|end|> closes one of an answer's messages and not the answer."""


def list_of(
    metadata: Mapping[str, Any], name: str, kind: type | tuple[type, ...], length: int | None = None
) -> list[Any]:
    """The list behind `tokenizer.ggml.NAME`, of `kind` only. UserError where it is none, or not of this length."""
    values = metadata.get(PREFIX + name)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, list | tuple) or not all(issubclass(found, kind) for found in set(map(type, values))):
        got = "none" if values is None else f"{type(values).__name__} {str(values)[:40]}"
        raise UserError(f"expected a list of {_said(kind)} as {PREFIX}{name}, got {got}: the vocabulary is not whole")
    if length not in (None, len(values)):
        raise UserError(f"expected {length} {PREFIX}{name}, one for each token, got {len(values)}")
    return list(values)


def text_of(metadata: Mapping[str, Any], key: str, default: str = "") -> str:
    """The text behind a whole key."""
    text = metadata.get(key, default)
    if not isinstance(text, str):
        raise UserError(f"{key} is {str(text)[:40]!r}, expected a text")
    return text


def tokens_of(metadata: Mapping[str, Any]) -> list[str]:
    """The text of every token, by id. Those that have none get a name, as in llama.cpp."""
    tokens = [token or f"[EMPTY_{number}]" for number, token in enumerate(list_of(metadata, "tokens", str))]
    if not tokens:
        raise UserError(f"{PREFIX}tokens is empty: the file holds no vocabulary")
    if len(set(tokens)) < len(tokens):
        first: dict[str, int] = {}
        number, token = next((n, t) for n, t in enumerate(tokens) if first.setdefault(t, n) != n)
        raise UserError(f"{PREFIX}tokens has {token!r} twice, as {first[token]} and {number}: no id would be sure")
    return tokens


def ids_of(metadata: Mapping[str, Any], usual: Mapping[str, int], size: int) -> dict[str, int]:
    """The end of a key -> the id it holds, else the `usual` one. A key that holds None says that there is no such
    token; padding outside of the vocabulary, which some files have, is none either."""
    ids = {name: number for name, number in usual.items() if number < size}
    for name in (*NAMED_IDS.values(), *END_IDS):
        number = metadata.get(PREFIX + name, ids.get(name))
        if number is None:
            ids.pop(name, None)
        elif isinstance(number, int | np.integer) and 0 <= number < size:
            ids[name] = int(number)
        elif name != "padding_token_id":
            raise UserError(f"{PREFIX}{name} is {number}, expected 0 to {size - 1}: the vocabulary ends there")
    return ids


def types_of(metadata: Mapping[str, Any], tokens: Sequence[str], ids: Mapping[str, int]) -> list[int]:
    """The kind of each token. One that begins a text or ends an answer is control, whatever the file says."""
    told = PREFIX + "token_type" in metadata
    kinds = list_of(metadata, "token_type", int, len(tokens)) if told else _guessed_types(tokens, ids)
    for name in ("bos_token_id", "eos_token_id", *END_IDS):
        if name in ids:
            kinds[ids[name]] = CONTROL
    known = end_tokens(tokens)
    return [CONTROL if token in known else kind for token, kind in zip(tokens, kinds, strict=True)]


def end_tokens(tokens: Sequence[str]) -> frozenset[str]:
    """Those of END_TOKENS that end an answer of this vocabulary."""
    ends = END_TOKENS.intersection(tokens)
    return ends - {"<|end|>"} if ends >= HARMONY else ends


def merges_in(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The pairs of a byte-level BPE, in the order in which they are to be joined."""
    pairs = [tuple(line.split(" ")) for line in list_of(metadata, "merges", str)]
    if wrong := next((pair for pair in pairs if len(pair) != 2), None):
        raise UserError(f"{PREFIX}merges has {' '.join(wrong)!r}, expected two tokens with a space between")
    return pairs


def templates_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """`chat_template` as tokenizer_config.json has it: one text, or all by name where there are several."""
    names = metadata.get(TEMPLATE_NAMES, [])
    if not isinstance(names, list | tuple):
        raise UserError(f"{TEMPLATE_NAMES} is {str(names)[:40]!r}, expected a list of names")
    keys = {"default": TEMPLATE, **{str(name): f"{TEMPLATE}.{name}" for name in names}}
    named = {name: text for name, key in keys.items() if (text := text_of(metadata, key))}
    if named.keys() <= {"default"}:
        return {"chat_template": named["default"]} if named else {}
    return {"chat_template": [{"name": name, "template": text} for name, text in named.items()]}


def _guessed_types(tokens: Sequence[str], ids: Mapping[str, int]) -> list[int]:
    """The kinds in a file that doesn't tell them."""
    kinds = [BYTE if BYTE_TOKEN.fullmatch(token) else NORMAL for token in tokens]
    if "unknown_token_id" in ids:
        kinds[ids["unknown_token_id"]] = UNKNOWN
    return kinds


def _said(kind: type | tuple[type, ...]) -> str:
    return "texts" if kind is str else "numbers"
