"""The tokenizer of a model: text to ids and back at run time, through the Rust library `tokenizers`.

What it does is fixed by a `tokenizer.json` (ours, made from a `BPE`, or anybody's); what its special tokens are for and
how a chat is written stands in `tokenizer_config.json` beside it, where transformers keeps it. Ids of ours are exactly
those of the by-hand encoder `BPE.encode`.

**Special tokens never come from text** unless `allow_special=True` asks for it: a document or a user that writes
"<|im_end|>" gets the ids of these ten characters. Chats need both kinds in one text: `chat.py`.

Left out: adding a beginning token by itself (templates and data loaders write it where they want it), and
`token_bytes` for vocabularies that are not byte-level.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from vesalius.core.errors import UserError, VesaliusError
from vesalius.core.files import atomic_write, read_json, write_json
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.chat_template import CHATML, Messages, Tools, render_chat
from vesalius.tokenizers.pretokenize import CHAR_TO_BYTE, PATTERN, from_printable, replace_surrogates, to_printable

BOUNDARY, _, END_OF_TURN = SPECIAL_TOKENS


class Tokenizer:
    """Made by `Tokenizer.from_bpe` or `Tokenizer.open`. Safe to share between threads."""

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], extra_eos: Sequence[int] = ()) -> None:
        """`config` is the content of tokenizer_config.json, `extra_eos` are end tokens that it doesn't name."""
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._config = dict(config)
        self._extra_eos = extra_eos

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled for another process it is made anew there: the library forgets `encode_special_tokens` on the way."""
        return Tokenizer, (self._backend, self._config, self._extra_eos)

    @classmethod
    def from_bpe(cls, bpe: BPE, chat_template: str | None = CHATML) -> "Tokenizer":
        """The run-time tokenizer of a trained vocabulary."""
        names = {"bos_token": BOUNDARY, "eos_token": END_OF_TURN, "pad_token": BOUNDARY}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{name: token for name, token in names.items() if token in bpe.special_tokens},
            **({"chat_template": chat_template} if chat_template else {}),
        }
        return cls(_byte_level_backend(bpe), config)

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
        config = _read_optional(directory / "tokenizer_config.json")
        if (template := directory / "chat_template.jinja").is_file():
            config["chat_template"] = template.read_text("utf-8")
        ends = _read_optional(directory / "generation_config.json").get("eos_token_id")
        return cls(backend, config, [ends] if isinstance(ends, int) else ends or [])

    def save(self, directory: Path | str) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer loads too."""
        atomic_write(Path(directory) / "tokenizer.json", self._backend.to_str(pretty=True))
        write_json(Path(directory) / "tokenizer_config.json", self._config)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text` and nothing around them; special tokens written in it are plain text unless `allow_special`.

        Lone surrogates, which UTF-8 cannot hold, become U+FFFD.
        """
        backend = self._special_backend if allow_special else self._backend
        return backend.encode(replace_surrogates(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text, on all cores."""
        batch = [replace_surrogates(text) for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch_fast(batch, add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no valid UTF-8 become U+FFFD."""
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def chat(self, messages: Messages, tools: Tools | None = None) -> str:
        """The text that asks for the assistant's next turn. UserError where there is no chat template."""
        return render_chat(
            messages,
            self.require_chat_template(),
            tools=tools,
            add_generation_prompt=True,
            named_tokens=self.named_tokens,
        )

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token stands for; a special token's are its text.

        VesaliusError where there is no such token, or the vocabulary isn't byte-level.
        """
        text = self._backend.id_to_token(token)
        if text is None:
            raise VesaliusError(f"token {token} is not in this vocabulary, which ends at {self.vocab_size - 1}")
        if token in self._added:
            return text.encode()
        if not set(text) <= CHAR_TO_BYTE.keys():
            raise VesaliusError(
                f"token {token} is {text!r}: this vocabulary is not byte-level, its tokens have no bytes"
            )
        return from_printable(text)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self._backend.get_vocab().values()) + 1

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Text of every special token -> id, by rising id."""
        return {token.content: number for number, token in sorted(self._added.items()) if token.special}

    @cached_property
    def named_tokens(self) -> dict[str, str]:
        """What tokenizer_config.json calls its special tokens, such as {"eos_token": "<|im_end|>"}."""
        entries = {name: value for name, value in self._config.items() if name.endswith("_token")}
        texts = {name: value["content"] if isinstance(value, dict) else value for name, value in entries.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    @cached_property
    def bos_id(self) -> int | None:
        """What stands before every document (ours: the document boundary); None where the model has no such token."""
        return self._backend.token_to_id(self.named_tokens.get("bos_token", ""))

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer, by rising id: the configured ones, the document boundary, ChatML's end of turn."""
        named = self._backend.token_to_id(self.named_tokens.get("eos_token", ""))
        usual = [self.special_tokens[text] for text in (BOUNDARY, END_OF_TURN) if text in self.special_tokens]
        return tuple(sorted({*usual, *self._extra_eos, *([] if named is None else [named])}))

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja source; of several named templates the default one."""
        template = self._config.get("chat_template")
        if isinstance(template, list):
            return next((entry["template"] for entry in template if entry["name"] == "default"), None)
        return template

    def require_chat_template(self) -> str:
        """The Jinja source. UserError where there is none."""
        if self.chat_template is None:
            raise UserError(
                "this model has no chat template: give a text to continue, or a model that was tuned to chat"
            )
        return self.chat_template

    @cached_property
    def fingerprint(self) -> str:
        """Hash of tokenizer.json: data that was encoded with one tokenizer must not be read with another."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    @cached_property
    def _added(self) -> dict[int, AddedToken]:
        return self._backend.get_added_tokens_decoder()

    @cached_property
    def _special_backend(self) -> tokenizers.Tokenizer:
        """A second one, because the switch is the library's state and not an argument."""
        backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
        backend.encode_special_tokens = False
        return backend


def _byte_level_backend(bpe: BPE) -> tokenizers.Tokenizer:
    vocab = {to_printable(token): number for token, number in bpe.vocab.items()} | bpe.special_tokens
    merges = [(to_printable(left), to_printable(right)) for left, right in bpe.merges]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in bpe.special_tokens])
    return backend


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
