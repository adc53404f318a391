"""Tokenizers of the Rust library: how byte-level ones are made, what they do around a text, and twins of them.

A backend is a chain: added tokens are cut out, a normalizer rewrites what lies between, a pre-tokenizer cuts it, the
model gives ids, a decoder turns tokens into text. What a chain does can only be read from its JSON form.

A twin is a second backend over the same model: `encode_special_tokens`, and whether a blank goes before a text, are the
state of a backend and no arguments of `encode`. The vocabulary, which is nearly all of it, is shared.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from vesalius.core.errors import UserError
from vesalius.tokenizers.pretokenize import CHAR_TO_BYTE, from_printable

BLANK = "▁"
"""How SentencePiece writes a space inside of a token."""

BlankRule = Literal["never", "first", "always"]
"""Whether a blank goes before a text: never, before its beginning, or also before what follows an added token."""

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
"""How SentencePiece writes a byte."""


def byte_level_backend(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    patterns: Sequence[str],
    *,
    ignore_merges: bool = False,
    nfc: bool = False,
) -> tokenizers.Tokenizer:
    """Byte-pair merging of bytes written as printable characters, in pieces that the patterns cut one after the other.

    UserError where a merge joins or makes what is no token.
    """
    backend = tokenizers.Tokenizer(bpe_model(vocab, merges, ignore_merges=ignore_merges))
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def bpe_model(vocab: dict[str, int], merges: list[tuple[str, str]], **options: Any) -> models.BPE:
    """The library's BPE model. UserError where a merge joins or makes what is no token."""
    try:
        return models.BPE(vocab=vocab, merges=merges, **options)
    except Exception as error:  # the library raises nothing more specific
        raise UserError(f"the merges do not fit the vocabulary ({error}): the file is damaged, get it again") from error


def add_tokens(backend: tokenizers.Tokenizer, added: Mapping[int, AddedToken]) -> None:
    """Gives the backend its added tokens by rising id, which keeps the ids of those that the vocabulary holds."""
    backend.add_tokens([token for _, token in sorted(added.items())])


def put_around(backend: tokenizers.Tokenizer, before: Mapping[str, int], behind: Mapping[str, int]) -> None:
    """Makes `encode(…, add_special_tokens=True)`, and with it other libraries, put these tokens (text -> id) around a
    text."""
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind],
        pair=[*before, "$A", *behind, *(f"{token}:1" for token in before), "$B:1", *(f"{token}:1" for token in behind)],
        special_tokens=list({**before, **behind}.items()),
    )


def put_before(backend: tokenizers.Tokenizer) -> list[int]:
    """The ids that the backend itself puts before a text."""
    return _around(backend)[0]


def put_behind(backend: tokenizers.Tokenizer) -> list[int]:
    """The ids that the backend itself puts behind a text."""
    return _around(backend)[1]


def _around(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    probe = backend.encode("a", add_special_tokens=True)
    entries = list(zip(probe.ids, probe.special_tokens_mask, strict=True))
    before, behind = (
        [token for token, _ in itertools.takewhile(lambda entry: entry[1] == 1, run)]
        for run in (entries, reversed(entries))
    )
    return before, behind[::-1]


def twin(
    backend: tokenizers.Tokenizer, *, encode_special_tokens: bool, blank: bool = True, added: Mapping[int, AddedToken]
) -> tokenizers.Tokenizer:
    """A backend with the same model; without `blank` nothing goes before a text."""
    chain = {"normalizer": state(backend.normalizer), "pre_tokenizer": state(backend.pre_tokenizer)}
    if not blank:
        chain = {name: _without_blank(part) for name, part in chain.items()}
    nothing = {"type": "BPE", "vocab": {}, "merges": []}
    chain |= {"version": "1.0", "added_tokens": [], "decoder": None, "post_processor": None, "model": nothing}
    other = tokenizers.Tokenizer.from_str(json.dumps(chain))
    other.model = backend.model
    add_tokens(other, added)
    assert other.get_added_tokens_decoder().keys() == added.keys()  # the library numbers them in this order, too
    other.encode_special_tokens = encode_special_tokens
    return other


def blank_rule(backend: tokenizers.Tokenizer) -> BlankRule:
    """Where this backend puts a blank that the text doesn't have."""
    for part in parts(state(backend.normalizer)):
        if part["type"] == "Prepend":
            return "always"
    for part in parts(state(backend.pre_tokenizer)):
        if part["type"] == "Metaspace":
            return part.get("prepend_scheme") or ("always" if part.get("add_prefix_space", True) else "never")
        if part["type"] == "ByteLevel" and part["add_prefix_space"]:
            return "always"
    return "never"


def drops_blank(backend: tokenizers.Tokenizer) -> bool:
    """Whether decoding leaves out a blank at the beginning, the counterpart of the one that was put there."""
    return any(
        (part["type"] == "Strip" and part["content"] == " " and part["start"] > 0)
        or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in parts(state(backend.decoder))
    )


def token_reader(backend: tokenizers.Tokenizer) -> Callable[[str], bytes] | None:
    """What turns the text of a token into the bytes that it stands for; None where tokens have no bytes of their own.

    Byte-level vocabularies write bytes as printable characters, those of SentencePiece a space as "▁" and a byte as
    "<0x0A>". Tokens of WordPiece and words depend on what stands around them.
    """
    kinds = {part["type"] for part in parts(state(backend.decoder))}
    if "ByteLevel" in kinds:
        return _byte_level_bytes
    if kinds & {"ByteFallback", "Metaspace"}:
        return _sentencepiece_bytes if "ByteFallback" in kinds else _metaspace_bytes
    return None


def state(component: Any) -> Any:
    """A component of a backend as the JSON that stands for it in tokenizer.json; None for none."""
    return None if component is None else json.loads(component.__getstate__())


def parts(component: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a component's JSON: those of a sequence one by one, in order."""
    if component is None:
        return
    if component["type"] != "Sequence":
        yield component
        return
    steps = next(value for key, value in component.items() if key != "type")
    for step in steps:
        yield from parts(step)


def _without_blank(component: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The JSON of a normalizer or a pre-tokenizer that leaves the beginning of a text as it is."""
    if component is None or component["type"] == "Prepend":
        return None
    if component["type"] == "Metaspace":
        return {**component, "prepend_scheme": "never"}
    if component["type"] == "ByteLevel":
        return {**component, "add_prefix_space": False}
    if component["type"] == "Sequence":
        name = next(key for key in component if key != "type")
        changed = [_without_blank(step) for step in component[name]]
        return {"type": "Sequence", name: [step for step in changed if step is not None]}
    return dict(component)


def _byte_level_bytes(token: str) -> bytes:
    """A character that stands for no byte is itself, as the library's decoder has it."""
    return from_printable(token) if CHAR_TO_BYTE.keys() >= set(token) else token.encode()


def _metaspace_bytes(token: str) -> bytes:
    return token.replace(BLANK, " ").encode()


def _sentencepiece_bytes(token: str) -> bytes:
    return bytes([int(token[3:5], 16)]) if BYTE_TOKEN.fullmatch(token) else _metaspace_bytes(token)
