"""Answers of one model to many prompts at once, by the one engine: what generated data is made of.

Each answer has a seed of its own, which follows from what it is an answer to and not from when it is asked for. The
engine's cache is emptied before each call, so that the same call gives the same answers whatever was asked before.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.engine import Sequence as Asked
from vesalius.infer.params import SamplingParams
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

Messages = list[dict[str, str]]

LIKELIEST = 1000
"""Tokens whose probabilities are told at once, the most that the engine tells."""


@dataclass(frozen=True)
class Question:
    """A prompt, and the seed of its answer."""

    messages: Messages
    seed: int


@dataclass(frozen=True)
class Answer:
    """text, and whether it came to its end: False where it was cut off, or its prompt left it no room."""

    text: str
    ended: bool


class Writer:
    """Writes answers of at most `max_tokens` with one model, which it puts into evaluation mode."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, *, max_tokens: int, options: EngineOptions | None = None
    ) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.engine = Engine(model.eval(), tokenizer.eos_ids, options)

    def write(self, questions: Sequence[Question], *, temperature: float) -> list[Answer]:
        """An answer to each, in order. UserError where the chat template refuses a prompt."""
        self.engine.blocks.clear()
        asked = [self._ask(question, temperature) for question in questions]
        self._finish([sequence for sequence in asked if sequence is not None])
        return [Answer("", False) if sequence is None else self._answer(sequence) for sequence in asked]

    def choose(self, prompts: Sequence[Messages], choices: Sequence[str]) -> list[list[float] | None]:
        """How likely the model finds each choice as the beginning of its answer to each prompt: probabilities that add
        up to 1; None where a prompt leaves no room.

        A prompt is read once where each choice is one of the likeliest tokens behind it, else once more for each of
        those that are not.
        """
        self.engine.blocks.clear()
        ends = [self.tokenizer.encode(choice) for choice in choices]
        longest = max(map(len, ends))
        asked = [ids if len(ids := self._prompt(one)) + longest <= self.engine.context else None for one in prompts]
        likeliest = SamplingParams(max_tokens=1, top_logprobs=LIKELIEST)
        read = [None if ids is None else self.engine.add(ids, likeliest)[0] for ids in asked]
        self._finish([sequence for sequence in read if sequence is not None])
        scored: list[list[float | Asked]] = [
            [] if ids is None or sequence is None else [self._found(ids, sequence, end) for end in ends]
            for ids, sequence in zip(asked, read, strict=True)
        ]
        self._finish([one for row in scored for one in row if isinstance(one, Asked)])
        return [_shares(row, ends) if row else None for row in scored]

    def _found(self, ids: list[int], sequence: Asked, end: list[int]) -> float | Asked:
        """The log-probability of a choice behind a prompt, or the sequence whose reading will tell it."""
        likeliest = sequence.steps[0].top_logprobs
        return likeliest[end[0]] if len(end) == 1 and end[0] in likeliest else self.engine.score(ids + end)

    def _prompt(self, messages: Messages) -> list[int]:
        return encode_chat(self.tokenizer, messages, add_generation_prompt=True).ids

    def _ask(self, question: Question, temperature: float) -> Asked | None:
        ids = self._prompt(question.messages)
        if len(ids) >= self.engine.context:
            return None
        params = SamplingParams(max_tokens=self.max_tokens, temperature=temperature, seed=question.seed)
        return self.engine.add(ids, params)[0]

    def _finish(self, sequences: Sequence[Asked]) -> None:
        for sequence in sequences:
            self.engine.run(sequence)

    def _answer(self, sequence: Asked) -> Answer:
        detokenizer = Detokenizer(self.tokenizer)
        text = "".join(detokenizer.push(token) for token in sequence.ids) + detokenizer.close()
        return Answer(text.strip(), sequence.finish_reason == "stop")


def _shares(scored: Sequence[float | Asked], ends: Sequence[list[int]]) -> list[float]:
    """The probabilities of the choices among themselves, from those of their tokens behind the prompt."""
    totals = [
        sum(one.logprobs[-len(end) :]) if isinstance(one, Asked) else one for one, end in zip(scored, ends, strict=True)
    ]
    return torch.tensor(totals, dtype=torch.float64).softmax(0).tolist()


def seed_of(*parts: str | int) -> int:
    """A seed that follows from what it is for, the same on every machine.

    >>> seed_of(0, "chats.jsonl:17", "critique")
    4129384567280395233
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
