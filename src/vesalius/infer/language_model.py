"""A model with its tokenizer: text in, text out. This is the class that users hold (DESIGN, "Public face").

A text prompt starts with the document boundary, as every document does in training; messages go through the chat
template, which ends where the assistant's answer begins. Left out: several prompts at once, tools, export to GGUF.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from vesalius.core.errors import UserError
from vesalius.hub.directory import open_model, save_model
from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.engine import Engine, FinishReason, Step
from vesalius.infer.sampling import SamplingOptions, SamplingParams
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text}, as in OpenAI's API."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How many tokens went in and came out; the end token counts."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What was generated.

    text           without special tokens and without the stop text
    ids, logprobs  every token that was generated, the end token included, and the model's own log-probability of each
    finish_reason  "stop" or "length"; None where the caller left the stream before its end
    """

    text: str
    ids: list[int] = field(repr=False)
    logprobs: list[float] = field(repr=False)
    finish_reason: FinishReason | None
    usage: Usage


class LanguageModel:
    """A model and its tokenizer. `load` opens one from a directory."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.engine = Engine(model, tokenizer.eos_ids)

    @classmethod
    def load(cls, path: Path | str) -> "LanguageModel":
        """From a Hugging Face directory or a run directory. UserError that says what is wrong with it."""
        return cls(*open_model(path))

    def save(self, directory: Path | str) -> None:
        """As a Hugging Face directory, whole or not at all; what stood there before is replaced."""
        save_model(directory, self.model, self.tokenizer)

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    def generate(self, prompt: str | Sequence[Message], **options: Unpack[SamplingOptions]) -> Completion:
        """The answer to a text or to messages, generated with the options that `SamplingParams` explains.

        UserError where the prompt is longer than the context, or an option is out of its range.
        """
        stream = self.stream(prompt, **options)
        for _ in stream:
            pass
        return stream.completion

    def stream(self, prompt: str | Sequence[Message], **options: Unpack[SamplingOptions]) -> "Stream":
        """The same answer in pieces of text, as they become certain. Joined, they are the text that `generate`
        gives."""
        params = SamplingParams.of(**options)
        ids = self.prompt_ids(prompt)
        return Stream(self.engine.stream(ids, params), Detokenizer(self.tokenizer, params.stop), len(ids))

    def prompt_ids(self, prompt: str | Sequence[Message]) -> list[int]:
        """The tokens that the model reads for a prompt."""
        if isinstance(prompt, str):
            start = [] if self.tokenizer.bos_id is None else [self.tokenizer.bos_id]
            return start + self.tokenizer.encode(prompt)
        return encode_chat(self.tokenizer, prompt, add_generation_prompt=True).ids

    def logits(self, ids: list[int] | Tensor) -> Tensor:
        """ids (T,) or (B, T) -> (T, V) or (B, T, V) float32. UserError for no ids, unknown ids, or more than the
        context holds."""
        tokens = torch.as_tensor(ids, dtype=torch.int64, device=self.model.lm_head.weight.device)
        if tokens.numel() == 0 or tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise UserError(
                f"expected token ids from 0 to {self.config.vocab_size - 1}, at least one; got {_range(tokens)}"
            )
        with torch.no_grad():
            logits = self.model(torch.atleast_2d(tokens))  # (B, T, V)
        return logits if tokens.dim() == 2 else logits[0]

    def score(self, ids: list[int]) -> list[float]:
        """The log-probability of each token after the first, given all before it: len(ids) - 1 numbers."""
        logprobs = self.logits(ids).log_softmax(-1)[:-1]  # (T - 1, V)
        return logprobs.gather(1, torch.tensor(ids[1:], device=logprobs.device).unsqueeze(1)).squeeze(1).tolist()


class Stream:
    """Pieces of text as they become certain; `completion` is what there is so far."""

    def __init__(self, steps: Iterator[Step], detokenizer: Detokenizer, prompt_tokens: int) -> None:
        self._steps = steps
        self._detokenizer = detokenizer
        self._prompt_tokens = prompt_tokens
        self._text: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._finish_reason: FinishReason | None = None
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def completion(self) -> Completion:
        """Everything generated so far: the whole answer once the stream is used up."""
        return Completion(
            text="".join(self._text),
            ids=list(self._ids),
            logprobs=list(self._logprobs),
            finish_reason=self._finish_reason,
            usage=Usage(prompt_tokens=self._prompt_tokens, completion_tokens=len(self._ids)),
        )

    def _run(self) -> Iterator[str]:
        for step in self._steps:
            if piece := self._read(step):
                self._text.append(piece)
                yield piece
            if self._detokenizer.stopped:
                break
        if tail := self._detokenizer.close():
            self._text.append(tail)
            yield tail

    def _read(self, step: Step) -> str:
        """Notes one step and returns the text that became certain with it."""
        self._ids.append(step.id)
        self._logprobs.append(step.logprob)
        at_end_token = step.finish_reason == "stop"
        piece = "" if at_end_token else self._detokenizer.push(step.id)
        self._finish_reason = "stop" if self._detokenizer.stopped else step.finish_reason
        return piece


def _range(tokens: Tensor) -> str:
    return f"{int(tokens.min())} to {int(tokens.max())}" if tokens.numel() else "none"
