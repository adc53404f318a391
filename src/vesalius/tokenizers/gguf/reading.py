"""The tokenizer of a GGUF file, from the `tokenizer.*` keys of its metadata (GGUF specification, "Tokenizer").

`tokenizer.ggml.model` says which kind it is: "gpt2" is byte-level BPE, cut by a rule that only has a name
(`pretokenizers.py`); "llama" is SentencePiece BPE, "t5" SentencePiece Unigram (`sentencepiece_like.py`). The rest
is the same for all: texts, kinds and scores of the tokens, ids of the special ones, and chat templates.

Where a key is missing, its value is the one that llama.cpp takes (`src/llama-vocab.cpp`, `llama_vocab::impl::load`).
Pads that fill a vocabulary up, and others that are marked unused, have ids and never come from text.
Left out: WordPiece ("bert"), RWKV and PLaMo vocabularies, and normalisation beyond SentencePiece's compiled rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken

from vesalius.core.errors import UserError, nearest
from vesalius.tokenizers.backends import add_tokens, byte_level_backend, put_around
from vesalius.tokenizers.gguf.keys import (
    BYTE,
    CONTROL,
    END_IDS,
    NAMED_IDS,
    NORMAL,
    PREFIX,
    UNKNOWN,
    USER_DEFINED,
    end_tokens,
    ids_of,
    list_of,
    merges_in,
    templates_of,
    text_of,
    tokens_of,
    types_of,
)
from vesalius.tokenizers.gguf.pretokenizers import pretokenizer_named
from vesalius.tokenizers.sentencepiece_like import merges_of, sentencepiece_bpe, sentencepiece_unigram
from vesalius.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What llama.cpp takes for granted of a kind of vocabulary."""

    ids: Mapping[str, int]
    add_bos: bool = False
    add_eos: bool = False


_KINDS = {
    "gpt2": _Kind(ids={}),
    "llama": _Kind(ids={"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}, add_bos=True),
    "t5": _Kind(ids={"padding_token_id": 0, "eos_token_id": 1, "unknown_token_id": 2}, add_eos=True),
}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes; keys as in the file, such as "tokenizer.ggml.tokens".

    UserError where there is none, its kind or pre-tokenizer is unknown, or its parts do not fit together.
    """
    reader = _Reader.of(metadata)
    backend = reader.backend()
    specials = {UNKNOWN, CONTROL}
    added = {
        number: AddedToken(reader.tokens[number], special=kind in specials, normalized=False)
        for number, kind in enumerate(reader.types)
        if kind in specials or kind == USER_DEFINED
    }
    add_tokens(backend, added)
    put_around(backend, *reader.around())
    return Tokenizer(backend, reader.config(), reader.ends())


@dataclass(frozen=True)
class _Reader:
    """The metadata, checked."""

    metadata: Mapping[str, Any]
    model: str
    tokens: list[str]
    types: list[int]
    ids: dict[str, int]

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> "_Reader":
        model = text_of(metadata, PREFIX + "model")
        if model not in _KINDS:
            raise UserError(
                f"the file's tokenizer is of kind {model!r} (tokenizer.ggml.model): {nearest(model, _KINDS)}"
            )
        tokens = tokens_of(metadata)
        ids = ids_of(metadata, _KINDS[model].ids, len(tokens))
        return cls(metadata, model, tokens, types_of(metadata, tokens, ids), ids)

    def backend(self) -> tokenizers.Tokenizer:
        build = {"gpt2": self._byte_level, "llama": self._sentencepiece_bpe, "t5": self._unigram}
        return build[self.model]()

    def ends(self) -> list[int]:
        """Ids of all tokens that end an answer."""
        known = end_tokens(self.tokens)
        named = [self.ids[name] for name in END_IDS if name in self.ids]
        return sorted({*named, *(number for number, token in enumerate(self.tokens) if token in known)})

    def config(self) -> dict[str, Any]:
        """What tokenizer_config.json would say."""
        names = {name: self.tokens[self.ids[key]] for name, key in NAMED_IDS.items() if key in self.ids}
        base = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        return {**base, **names, **templates_of(self.metadata)}

    def around(self) -> tuple[dict[str, int], dict[str, int]]:
        """What goes before a text, and what behind it: text -> id."""
        return (
            self._asked("add_bos_token", "bos_token_id", self._adds_bos()),
            self._asked("add_eos_token", "eos_token_id", _KINDS[self.model].add_eos),
        )

    def _asked(self, switch: str, name: str, default: bool) -> dict[str, int]:
        if not self._flag(switch, default):
            return {}
        if name not in self.ids:
            raise UserError(f"{PREFIX}{switch} is true, but there is no {PREFIX}{name}: set the one or drop the other")
        return {self.tokens[self.ids[name]]: self.ids[name]}

    def _byte_level(self) -> tokenizers.Tokenizer:
        rule = pretokenizer_named(text_of(self.metadata, PREFIX + "pre", "default"))
        return byte_level_backend(
            self._vocab(), merges_in(self.metadata), rule.patterns, ignore_merges=rule.ignore_merges, nfc=rule.nfc
        )

    def _sentencepiece_bpe(self) -> tokenizers.Tokenizer:
        hidden = {number for number, kind in enumerate(self.types) if kind not in (NORMAL, USER_DEFINED)}
        unknown = self.ids.get("unknown_token_id")
        return sentencepiece_bpe(
            self._vocab(),
            merges_of(self.tokens, self._scores(), hidden),
            unknown=None if unknown is None else self.tokens[unknown],
            **self._normalising(),
        )

    def _unigram(self) -> tokenizers.Tokenizer:
        return sentencepiece_unigram(
            list(zip(self.tokens, self._scores(), strict=True)),
            unknown_id=self.ids.get("unknown_token_id"),
            byte_fallback=BYTE in self.types,
            **self._normalising(),
        )

    def _normalising(self) -> dict[str, Any]:
        """What is done to a text before."""
        charsmap = list_of({PREFIX + "precompiled_charsmap": [], **self.metadata}, "precompiled_charsmap", int)
        return {
            "space_prefix": self._flag("add_space_prefix", True),
            "charsmap": bytes(number & 0xFF for number in charsmap),  # files hold int8 or uint8
            "single_spaces": self._flag("remove_extra_whitespaces", False),
        }

    def _vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def _scores(self) -> list[float]:
        return list_of(self.metadata, "scores", (float, int), len(self.tokens))

    def _adds_bos(self) -> bool:
        if self.model == "gpt2":
            return pretokenizer_named(text_of(self.metadata, PREFIX + "pre", "default")).add_bos
        return _KINDS[self.model].add_bos

    def _flag(self, name: str, default: bool) -> bool:
        return bool(self.metadata.get(PREFIX + name, default))
