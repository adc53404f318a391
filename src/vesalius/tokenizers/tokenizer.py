"""The tokenizer of a model: text to ids and back at run time, through the Rust library `tokenizers`.

What it does is fixed by a `tokenizer.json` (ours, made from a `BPE`, or anybody's); what its special tokens are for and
how a chat is written stands in `tokenizer_config.json` beside it, where transformers keeps it. Ids of ours are exactly
those of the by-hand encoder `BPE.encode`.

**Special tokens never come from text** unless `allow_special=True` asks for it: a document or a user that writes
"<|im_end|>" gets the ids of these ten characters. Chats need both kinds in one text: `chat.py`.

`encode` adds no beginning token: chat templates write one where they want it, and `prompt_prefix` says what a model
reads before a text to continue.

Vocabularies of SentencePiece put a blank before a text, and some before whatever follows an added token, so that a word
there is the same token as inside of a sentence. Where a text is encoded in parts, `after` says what stands before one.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import AddedToken, decoders, models

from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.files import atomic_write, read_json, write_json
from vesalius.tokenizers.backends import (
    BlankRule,
    add_tokens,
    blank_rule,
    byte_level_backend,
    drops_blank,
    put_around,
    put_before,
    token_reader,
    twin,
)
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.chat_template import CHATML, Messages, Tools, render_chat
from vesalius.tokenizers.normalizers import put_normalizers
from vesalius.tokenizers.pretokenize import PATTERN, replace_surrogates, to_printable
from vesalius.tokenizers.sentencepiece_like import sentencepiece_unigram
from vesalius.tokenizers.splitters import SPLITTERS
from vesalius.tokenizers.unigram.model import Unigram
from vesalius.tokenizers.wordpiece.model import LONGEST_WORD, PREFIX, WordPiece
from vesalius.tokenizers.wordpiece.model import UNKNOWN as UNKNOWN_WORD

BOUNDARY, _, END_OF_TURN = SPECIAL_TOKENS

GENERAL_CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of transformers that leave it to tokenizer.json what goes before a text; others read their configuration."""

Before = Literal["nothing", "added", "text"]
"""What stands before a text that is encoded: nothing, an added token, or other text that it goes on with."""


class Tokenizer:
    """Made by `kinds.train_tokenizer`, `Tokenizer.open` or `gguf.reading.tokenizer_from_gguf`. Safe to share between
    threads. `backend` and `config`, the content of tokenizer_config.json, are there to be read."""

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], extra_eos: Sequence[int] = ()) -> None:
        """`extra_eos` are end tokens that `config` doesn't name."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend = backend
        self.config = dict(config)
        self._extra_eos = extra_eos

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled for another process it is made anew there: the library forgets `encode_special_tokens` on the way."""
        return Tokenizer, (self.backend, self.config, self._extra_eos)

    @classmethod
    def from_bpe(cls, bpe: BPE, chat_template: str | None = CHATML) -> "Tokenizer":
        """The run-time tokenizer of a trained vocabulary."""
        vocab = {to_printable(token): number for token, number in bpe.vocab.items()} | bpe.special_tokens
        merges = [(to_printable(left), to_printable(right)) for left, right in bpe.merges]
        backend = byte_level_backend(vocab, merges, [PATTERN])
        return cls(backend, _give_special_tokens(backend, bpe.special_tokens, chat_template))

    @classmethod
    def from_unigram(cls, unigram: Unigram, chat_template: str | None = CHATML) -> "Tokenizer":
        """The same of a Unigram vocabulary."""
        backend = sentencepiece_unigram(
            unigram.pieces, unknown_id=unigram.unknown_id, byte_fallback=True, space_prefix=False
        )
        unknown, _ = unigram.pieces[unigram.unknown_id]
        special_tokens = unigram.special_tokens | {unknown: unigram.unknown_id}
        config = _give_special_tokens(backend, special_tokens, chat_template)
        return cls(backend, {**config, "unk_token": unknown})

    @classmethod
    def from_wordpiece(cls, wordpiece: WordPiece, chat_template: str | None = CHATML) -> "Tokenizer":
        """The same of a WordPiece vocabulary."""
        backend = tokenizers.Tokenizer(
            models.WordPiece(dict(wordpiece.vocab), unk_token=UNKNOWN_WORD, max_input_chars_per_word=LONGEST_WORD)
        )
        put_normalizers(backend, [wordpiece.normalizer])
        backend.pre_tokenizer = SPLITTERS["bert"].backend()
        backend.decoder = decoders.WordPiece(PREFIX, cleanup=False)
        special_tokens = {**wordpiece.special_tokens, UNKNOWN_WORD: wordpiece.vocab[UNKNOWN_WORD]}
        config = _give_special_tokens(backend, special_tokens, chat_template)
        return cls(backend, {**config, "unk_token": UNKNOWN_WORD})

    @classmethod
    def open(cls, directory: Path | str) -> "Tokenizer":
        """Reads tokenizer.json and, where they are there, the configuration, chat template and end tokens beside it.

        UserError where there is no tokenizer.json, or `tokenizers` cannot read it.
        """
        directory = Path(directory)
        file = directory / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                f"no tokenizer.json in {directory}: give a directory that a tokenizer or model was saved to"
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing more specific
            raise UserError(f"{file} is not a tokenizer that this version of `tokenizers` reads ({error})") from error
        return cls(backend, *read_tokenizer_config(directory))

    def save(self, directory: Path | str) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer loads too."""
        atomic_write(Path(directory) / "tokenizer.json", self.backend.to_str(pretty=True))
        write_json(Path(directory) / "tokenizer_config.json", self.config)

    def encode(self, text: str, *, allow_special: bool = False, after: Before = "nothing") -> list[int]:
        """Ids of `text` and nothing around them; special tokens written in it are plain text unless `allow_special`.

        Lone surrogates, which UTF-8 cannot hold, become U+FFFD.
        """
        text = replace_surrogates(text)
        if self._has_blank(after):
            backend = self._special_backend if allow_special else self.backend
            ids = backend.encode(text, add_special_tokens=False).ids
        else:
            ids = self._encode_bare(text, allow_special)
        if allow_special or self._special_ids.isdisjoint(ids):
            return ids
        return self._encode_around_special(text, after)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        batch = [replace_surrogates(text) for text in texts]
        encodings = self.backend.encode_batch_fast(batch, add_special_tokens=False)
        results = (encoding.ids for encoding in encodings)
        return [
            ids if self._special_ids.isdisjoint(ids) else self.encode(text)
            for ids, text in zip(results, batch, strict=True)
        ]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD."""
        return self.backend.decode(ids, skip_special_tokens=skip_special)

    def chat(self, messages: Messages, tools: Tools | None = None, **template_options: Any) -> str:
        """The text that asks for the assistant's next turn. `template_options` are what this model's chat template
        knows besides, such as `enable_thinking=False`.

        UserError where there is no chat template, or it knows no such option.
        """
        return render_chat(
            messages,
            self.require_chat_template(tools),
            tools=tools,
            add_generation_prompt=True,
            named_tokens=self.named_tokens,
            options=template_options,
        )

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; an added token's are its text.

        VesaliusError where there is no such token, or the tokens of this vocabulary have no bytes of their own.
        """
        text = self.backend.id_to_token(token)
        if text is None:
            raise VesaliusError(f"token {token} is not in this vocabulary, which ends at {self.vocab_size - 1}")
        if token in self.added_tokens:
            return text.encode()
        if self._read_token is None:
            raise VesaliusError(
                f"token {token} is {text!r}: this vocabulary is not byte-level or SentencePiece's, "
                "its tokens have no bytes of their own"
            )
        return self._read_token(text)

    @cached_property
    def drops_first_blank(self) -> bool:
        """Whether `decode` leaves out one blank that the bytes of the first token begin with, as SentencePiece does."""
        return drops_blank(self.backend)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self.backend.get_vocab().values()) + 1

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Text of every special token -> id, by rising id."""
        return {token.content: number for number, token in sorted(self.added_tokens.items()) if token.special}

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """What tokenizer_config.json calls its special tokens, such as {"eos_token": "<|im_end|>"}."""
        entries = {name: value for name, value in self.config.items() if name.endswith("_token")}
        texts = {name: value["content"] if isinstance(value, dict) else value for name, value in entries.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    @cached_property
    def bos_id(self) -> int | None:
        """What the tokenizer's configuration calls its beginning; None where it names none."""
        return self.backend.token_to_id(self.named_tokens.get("bos_token", ""))

    @cached_property
    def unknown_id(self) -> int | None:
        """What stands for text that the vocabulary cannot say; None where it can say all, or leaves it out."""
        model = self.backend.model
        unknown = self.named_tokens.get("unk_token") if isinstance(model, models.Unigram) else model.unk_token
        return None if unknown is None else self.backend.token_to_id(unknown)

    @cached_property
    def prompt_prefix(self) -> list[int]:
        """What stands before a text that the model is to continue: ours and Llama's begin with `bos_id`, others' with
        nothing."""
        asked = self.config.get("add_bos_token")
        if isinstance(asked, bool) and self.config.get("tokenizer_class") not in GENERAL_CLASSES:
            return [self.bos_id] if asked and self.bos_id is not None else []
        return put_before(self.backend)

    @cached_property
    def document_boundary(self) -> int | None:
        """What stands before every document of a training text: what a prompt begins with, else <|endoftext|>, else the
        end token or `bos_id`; None where there is none of them.

        Not simply `bos_id`: where nothing goes before a prompt, that may begin a turn of a chat.
        """
        candidates = [
            *self.prompt_prefix[:1],
            self.special_tokens.get(BOUNDARY),
            self.backend.token_to_id(self.named_tokens.get("eos_token", "")),
            self.bos_id,
        ]
        return next((token for token in candidates if token is not None), None)

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, by rising id: the configured ones, the document boundary, ChatML's end of turn."""
        named = self.backend.token_to_id(self.named_tokens.get("eos_token", ""))
        usual = [self.special_tokens[text] for text in (BOUNDARY, END_OF_TURN) if text in self.special_tokens]
        return tuple(sorted({*usual, *self._extra_eos, *([] if named is None else [named])}))

    @cached_property
    def chat_templates(self) -> dict[str, str]:
        """Name -> Jinja source. The usual one is "default"; some models have another for tools, "tool_use"."""
        template = self.config.get("chat_template")
        if isinstance(template, list):
            return {entry["name"]: entry["template"] for entry in template}
        return {} if template is None else {"default": template}

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the usual one."""
        return self.chat_templates.get("default")

    def require_chat_template(self, tools: Tools | None = None) -> str:
        """The Jinja source for a chat with these tools. UserError where there is none."""
        name = "tool_use" if tools is not None and "tool_use" in self.chat_templates else "default"
        if name not in self.chat_templates:
            raise UserError(
                "this model has no chat template: give a text to continue, or a model that was tuned to chat"
            )
        return self.chat_templates[name]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of tokenizer.json: data that was encoded with one tokenizer must not be read with another."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    @cached_property
    def added_tokens(self) -> dict[int, AddedToken]:
        """Id -> token, for all that is found in a text before anything else looks at it: special tokens, and others
        that a model was given besides its vocabulary."""
        return self.backend.get_added_tokens_decoder()

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        """Those that text must not give; the one for what the vocabulary cannot say is all that there may be."""
        return frozenset(self.special_tokens.values()) - {self.unknown_id}

    @cached_property
    def _read_token(self) -> Callable[[str], bytes] | None:
        return token_reader(self.backend)

    @cached_property
    def _blank_rule(self) -> BlankRule:
        return blank_rule(self.backend)

    @cached_property
    def _special_backend(self) -> tokenizers.Tokenizer:
        return twin(self.backend, encode_special_tokens=False, added=self.added_tokens)

    @cached_property
    def _bare_backend(self) -> tokenizers.Tokenizer:
        return twin(self.backend, encode_special_tokens=True, blank=False, added=self.added_tokens)

    @cached_property
    def _bare_special_backend(self) -> tokenizers.Tokenizer:
        return twin(self.backend, encode_special_tokens=False, blank=False, added=self.added_tokens)

    def _has_blank(self, after: Before) -> bool:
        """Whether the backend as it is treats the beginning of a text as it is to be there."""
        return after == "nothing" or self._blank_rule == "never" or (after == "added" and self._blank_rule == "always")

    def _encode_bare(self, text: str, allow_special: bool) -> list[int]:
        """Ids of a text that no blank goes before. What follows its first added token is as everywhere else."""
        usual, bare = (
            (self._special_backend, self._bare_special_backend) if allow_special else (self.backend, self._bare_backend)
        )
        encoding = bare.encode(text, add_special_tokens=False)
        for place, (token, (start, end)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
            if token in self.added_tokens and self.added_tokens[token].content in text[start:end]:
                return encoding.ids[:place] + usual.encode(text[start:], add_special_tokens=False).ids
        return encoding.ids

    def _encode_around_special(self, text: str, after: Before) -> list[int]:
        """Ids of a text that the model would turn into a special token: it is cut in the middle of each such place.

        Unigram vocabularies hold their special tokens as pieces, and merges may lead to one by chance.
        """
        backend = self.backend if self._has_blank(after) else self._bare_backend
        encoding = backend.encode(text, add_special_tokens=False)
        spans = (span for token, span in zip(encoding.ids, encoding.offsets, strict=True) if token in self._special_ids)
        start, end = next(spans)
        if end - start < 2:
            raise VesaliusError(f"{text[start:end]!r} is a special token to this vocabulary's normalizer: leave it out")
        middle = start + (end - start) // 2
        return self.encode(text[:middle], after=after) + self.encode(text[middle:], after="text")


def _give_special_tokens(
    backend: tokenizers.Tokenizer, special_tokens: Mapping[str, int], chat_template: str | None
) -> dict[str, Any]:
    """Gives the backend of a vocabulary of ours its special tokens -> what tokenizer_config.json says of them."""
    add_tokens(
        backend, {token: AddedToken(text, special=True, normalized=False) for text, token in special_tokens.items()}
    )
    if BOUNDARY in special_tokens:
        put_around(backend, {BOUNDARY: special_tokens[BOUNDARY]}, {})
    names = {"bos_token": BOUNDARY, "eos_token": END_OF_TURN, "pad_token": BOUNDARY}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in names.items() if token in special_tokens},
        **({"chat_template": chat_template} if chat_template else {}),
    }


def read_tokenizer_config(directory: Path | str) -> tuple[dict[str, Any], Sequence[int]]:
    """What a model's directory says of its tokenizer besides the vocabulary: tokenizer_config.json with the chat
    templates that have files of their own, and the end tokens of the model's configuration."""
    directory = Path(directory)
    config = _read_optional(directory / "tokenizer_config.json")
    files = {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    if (default := directory / "chat_template.jinja").is_file():
        files["default"] = default
    if files:
        config["chat_template"] = [
            {"name": name, "template": path.read_text("utf-8")} for name, path in sorted(files.items())
        ]
    return config, _end_ids(directory)


def _end_ids(directory: Path) -> Sequence[int]:
    """The end tokens of a model's directory: generation_config.json's, or config.json's where that has none."""
    for name in ("generation_config.json", "config.json"):
        ends = _read_optional(directory / name).get("eos_token_id")
        if ends is not None:
            return [ends] if isinstance(ends, int) else ends
    return []


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
