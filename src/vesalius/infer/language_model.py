"""A model with its tokenizer: text in, text out. This is the class that users hold (DESIGN, "Public face").

A text prompt starts with the document boundary, as every document does in training; messages go through the chat
template, which ends where the assistant's answer begins. A call of a tool comes as the text that the model writes.
Left out: several prompts at once.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from vesalius.adapt.switch import adapter_names
from vesalius.adapt.virtual_tokens import virtual_ids
from vesalius.compress.offload import is_offloaded, offload_layers
from vesalius.core.errors import UserError
from vesalius.hub.directory import save_model
from vesalius.hub.export import Exported, export_model
from vesalius.hub.open import model_path, open_model, open_with_adapters
from vesalius.hub.unpacking import unpacked
from vesalius.infer.completion import Completion, Stream, Usage
from vesalius.infer.constrain import Constraint, compile_constraint
from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.engine import Engine, Steps
from vesalius.infer.generation_config import published_options, read_recommended
from vesalius.infer.intake import placement
from vesalius.infer.options import EngineOptions
from vesalius.infer.params import SamplingOptions, SamplingParams
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.chat_template import Tools
from vesalius.tokenizers.tokenizer import Tokenizer

__all__ = ["Completion", "LanguageModel", "Message", "Stream", "Usage"]

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant", "content": text}, as in OpenAI's API."""


class LanguageModel:
    """A model and its tokenizer. `load` opens one by its name or from a file."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        generation_defaults: SamplingOptions | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        """`generation_defaults` are the settings that the model's makers recommend. A chat uses them; `generate` and
        `stream` don't, so that the same call means the same for every model. `options` are the engine's."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.generation_defaults = generation_defaults or SamplingOptions()
        if options is not None and options.speculation and virtual_ids(model, adapter_names(model)):
            raise UserError(f"speculation = {options.speculation!r} with a prompt or a prefix: who guesses has none")
        if options is not None and options.weight_bytes is not None and not is_offloaded(model):
            offload_layers(model, options.weight_bytes)
        self.engine = Engine(model, tokenizer.eos_ids, options)

    @classmethod
    def load(
        cls,
        path: Path | str,
        options: EngineOptions | None = None,
        *,
        adapter: Path | str | None = None,
        adapters: Mapping[str, Path | str] | None = None,
    ) -> "LanguageModel":
        """From an alias, a hub id, a Hugging Face directory, a run directory, a .gguf file or an adapter's directory,
        which names its base; what has to be fetched first is fetched. `adapter` is the directory of one, or a run's,
        to put around the model for good; of `adapters` each text may choose one, by its name. UserError that says what
        is wrong, VesaliusError where it cannot be fetched.
        """
        limit = None if options is None else options.weight_bytes
        if adapters:
            opened = open_with_adapters(path, adapters, weight_bytes=limit)
        else:
            opened = open_model(path, adapter=adapter, weight_bytes=limit)
        return cls(*opened, read_recommended(model_path(path)), options)

    def save(self, directory: Path | str) -> None:
        """As a Hugging Face directory, whole or not at all; what stood there before is replaced."""
        generation = published_options(self.generation_defaults)
        save_model(directory, unpacked(self.model), self.tokenizer, generation=generation)

    def export(self, path: Path | str, *, dtype: str | None = None) -> Exported:
        """Writes a GGUF file, by default in q8_0, where `path` ends in .gguf, else a new Hugging Face directory.

        dtype: f32, f16, bf16, and for GGUF q8_0, q6_k, q5_k, q5_1, q5_0, q4_k, q4_1, q4_0, q3_k, q2_k. UserError for
        what the format cannot say.
        """
        return export_model(path, self.model, self.tokenizer, dtype=dtype)

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        tools: Tools | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """The answer to a text or to messages, generated with the options that `SamplingParams` explains.

        tools             what the chat template tells the model of: JSON schemas of functions, as in OpenAI's API
        template_options  its other variables, such as {"enable_thinking": False}
        adapter           one of those that the model was loaded with, by name
        UserError where the prompt is longer than the context, or an option is out of its range or unknown.
        """
        ids, params = self.prompt_ids(prompt, tools=tools, template_options=template_options), self._params(options)
        if params.num_beams > 1:
            return self._beams(ids, params, adapter)[0]
        return self._stream(ids, params, adapter).read()

    def generate_many(
        self,
        prompt: str | Sequence[Message],
        n: int,
        *,
        tools: Tools | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Completion]:
        """n answers: the best n of beam search where `num_beams` asks for it, or else n drawn ones, with seed,
        seed + 1, and so on. UserError as in `generate`, and where they would all be the same, or there are fewer beams.
        """
        ids, params = self.prompt_ids(prompt, tools=tools, template_options=template_options), self._params(options)
        if n < 1:
            raise UserError(f"n = {n}, expected a whole number from 1")
        if params.num_beams > 1:
            if n > params.num_beams:
                raise UserError(f"n = {n} answers of num_beams = {params.num_beams}: raise num_beams or lower n")
            return self._beams(ids, params, adapter)[:n]
        if n > 1 and params.temperature == 0:
            raise UserError(f"n = {n} answers at temperature 0 are all the same: set a temperature or num_beams")
        made = self.engine.streams(ids, params, n, constraint=self._constraint(params), adapter=adapter)
        streams = [self._streamed(steps, params, len(ids)) for steps in made]
        for _ in itertools.zip_longest(*streams):  # in turns, so that they share the steps
            pass
        return [stream.completion for stream in streams]

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        tools: Tools | None = None,
        template_options: Mapping[str, Any] | None = None,
        adapter: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Stream:
        """The same answer in pieces of text, as they become certain. Joined, they are the text that `generate` gives.

        What an earlier prompt or answer has in common with this prompt from the start, as from turn to turn of a
        conversation, isn't read again. UserError as in `generate`, at once, and for beam search, which knows its answer
        only at the end.
        """
        ids, params = self.prompt_ids(prompt, tools=tools, template_options=template_options), self._params(options)
        return self._stream(ids, params, adapter)

    def _stream(self, ids: list[int], params: SamplingParams, adapter: str | None) -> Stream:
        steps = self.engine.stream(ids, params, constraint=self._constraint(params), adapter=adapter)
        return self._streamed(steps, params, len(ids))

    def _streamed(self, steps: Steps, params: SamplingParams, prompt_tokens: int) -> Stream:
        return Stream(steps, Detokenizer(self.tokenizer, params.stop), prompt_tokens)

    def _beams(self, ids: list[int], params: SamplingParams, adapter: str | None) -> list[Completion]:
        beams = self.engine.beams(ids, params, adapter=adapter)
        streams = [Stream(beam.steps(), Detokenizer(self.tokenizer), len(ids)) for beam in beams]
        return [replace(stream.read(), score=beam.score) for stream, beam in zip(streams, beams, strict=True)]

    def _params(self, options: SamplingOptions) -> SamplingParams:
        """The settings as the engine takes them: bad words as the ids that spell them, with and without a blank."""
        params = SamplingParams.of(**options)
        if not params.bad_words:
            return params
        texts = [spelling for word in params.bad_words for spelling in (word, f" {word}")]
        ids = tuple(dict.fromkeys(tuple(self.tokenizer.encode(text)) for text in texts))
        return replace(params, bad_words=(), bad_words_ids=params.bad_words_ids + ids)

    def _constraint(self, params: SamplingParams) -> Constraint | None:
        return None if params.constraint is None else compile_constraint(self.tokenizer, params.constraint)

    def prompt_ids(
        self,
        prompt: str | Sequence[Message],
        *,
        tools: Tools | None = None,
        template_options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The tokens that the model reads for a prompt; `tools` and `template_options` as in `generate`."""
        if not isinstance(prompt, str):
            chat = encode_chat(
                self.tokenizer, prompt, tools=tools, add_generation_prompt=True, options=template_options
            )
            return chat.ids
        if tools is not None or template_options:
            raise UserError("tools and template_options are for a chat template, got a text: give messages")
        return self.tokenizer.prompt_prefix + self.tokenizer.encode(prompt)

    def logits(self, ids: list[int] | Tensor) -> Tensor:
        """ids (T,) or (B, T) -> (T, V) or (B, T, V) float32. UserError for no ids, unknown ids, or more than the
        context holds."""
        tokens = torch.as_tensor(ids, dtype=torch.int64, device=placement(self.model)[0])
        if tokens.numel() == 0 or tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise UserError(
                f"expected token ids from 0 to {self.config.vocab_size - 1}, at least one; got {_range(tokens)}"
            )
        with torch.no_grad():
            logits = self.model(torch.atleast_2d(tokens))  # (B, T, V)
        return logits if tokens.dim() == 2 else logits[0]

    def score(self, ids: list[int]) -> list[float]:
        """The log-probability of each token after the first, given all before it: len(ids) - 1 numbers. UserError as in
        `logits`."""
        return self.engine.run(self.engine.score(ids)).logprobs


def _range(tokens: Tensor) -> str:
    return f"{int(tokens.min())} to {int(tokens.max())}" if tokens.numel() else "none"
