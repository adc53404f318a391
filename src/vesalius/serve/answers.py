"""From the engine's steps to what clients are told: pieces of text, thoughts and calls, tokens with their logprobs,
how an answer ended, and what it cost.

A whole answer is its pieces put together, so that it is the same whether it is streamed or not.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from vesalius.infer.detokenize import Detokenizer
from vesalius.infer.step import Step
from vesalius.serve.engine_thread import News, Ticket
from vesalius.serve.notes import current_notes
from vesalius.serve.service import Service
from vesalius.serve.tools.parsing import AnswerParser, CallDelta, Delta
from vesalius.tokenizers.tokenizer import Tokenizer


class Piece(NamedTuple):
    """What one answer has got: its number, what to tell, the tokens that were written, and how it ended if it did."""

    choice: int
    deltas: list[Delta]
    steps: list[Step]
    finish_reason: str | None


@dataclass(kw_only=True)
class Usage:
    """Tokens of all answers to one prompt, or to several."""

    prompt: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0

    def as_chat(self) -> dict[str, Any]:
        """As chats and completions tell it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


class Writing:
    """One answer on its way from steps to pieces."""

    def __init__(self, index: int, detokenizer: Detokenizer, parser: AnswerParser | None) -> None:
        self.index = index
        self.written = self.reasoning = 0
        self.is_over = False
        self._detokenizer = detokenizer
        self._parser = parser

    def push(self, news: News) -> Piece:
        """The piece that new steps make. After a stop text it is over, though the engine may not know yet."""
        deltas: list[Delta] = []
        steps: list[Step] = []
        reason: str | None = None
        for step in news.steps:
            self.written += 1
            ended = step.finish_reason == "stop"
            if not ended:
                steps.append(step)
                self._tell(self._detokenizer.push(step.id), deltas)
            reason = "stop" if self._detokenizer.stopped else step.finish_reason
            if reason is not None:
                break
        if reason is not None:
            self._close(deltas)
            called = self._parser is not None and self._parser.called
            reason = "tool_calls" if called and reason == "stop" else reason
        return Piece(self.index, deltas, steps, reason)

    def _tell(self, text: str, deltas: list[Delta]) -> None:
        if not text:
            return
        new = [Delta(content=text)] if self._parser is None else self._parser.push(text)
        self.reasoning += any(delta.reasoning_content for delta in new)
        _add(new, deltas)

    def _close(self, deltas: list[Delta]) -> None:
        self.is_over = True
        self._tell(self._detokenizer.close(), deltas)
        if self._parser is not None:
            _add(self._parser.close(), deltas)


class Answers:
    """All answers of one request. Its ticket is closed when `pieces` ends, however it ends."""

    def __init__(self, service: Service, ticket: Ticket, writings: list[Writing], *, n: int) -> None:
        """n is how many of them there are to each prompt."""
        self.usage = Usage(prompt=sum(len(sequence.prompt) for sequence in ticket.sequences[::n]))
        self._n = n
        self._service, self._ticket, self._writings = service, ticket, writings
        self._first: dict[int, float] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._writings)

    async def pieces(self) -> AsyncGenerator[list[Piece], None]:
        """What came since the last time, a piece for each answer that got something."""
        try:
            async with aclosing(self._ticket.news()) as batches:
                async for batch in batches:
                    yield [self._push(news) for news in batch if not self._writings[news.place].is_over]
        finally:
            self.close()

    def close(self) -> None:
        """Cancels what goes on and adds up what it cost."""
        self._ticket.close()
        self.usage.cached = sum(sequence.cached_tokens for sequence in self._ticket.sequences[:: self._n])
        self.usage.written = sum(writing.written for writing in self._writings)
        self.usage.reasoning = sum(writing.reasoning for writing in self._writings)

    def _push(self, news: News) -> Piece:
        now = time.monotonic() - self._ticket.asked
        self._first.setdefault(news.place, now)
        writing = self._writings[news.place]
        piece = writing.push(news)
        if piece.finish_reason is not None:
            self._ticket.stop(news.place)
            self._service.note_answer(piece.finish_reason, writing.written, first=self._first[news.place], whole=now)
            current_notes().answered(writing.written, piece.finish_reason, self._first[news.place])
        return piece


@dataclass
class Told:
    """The pieces of one answer put together."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        """One more piece."""
        self.steps += piece.steps
        self.finish_reason = piece.finish_reason or self.finish_reason
        for delta in piece.deltas:
            self.content += delta.content or ""
            self.reasoning += delta.reasoning_content or ""
            if (call := delta.tool_call) is not None:
                if call.name is not None:
                    self.calls.append({"id": call.id or "", "name": call.name, "arguments": ""})
                self.calls[call.index]["arguments"] += call.arguments


async def put_together(answers: Answers) -> list[Told]:
    """All of the answers, whole."""
    told = [Told() for _ in range(answers.count)]
    async with aclosing(answers.pieces()) as batches:
        async for pieces in batches:
            for piece in pieces:
                told[piece.choice].add(piece)
    return told


def logprob_entry(tokenizer: Tokenizer, step: Step, top: int) -> dict[str, Any]:
    """A token with its logprob and those of the likeliest in its place, as chats and responses tell it."""
    likeliest = list(step.top_logprobs.items())[:top]
    return _entry(tokenizer, step.id, step.logprob) | {
        "top_logprobs": [_entry(tokenizer, token, logprob) for token, logprob in likeliest]
    }


def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """What a token adds to the text; nothing for rows of the embedding that no token has."""
    return tokenizer.token_bytes(token) if token < tokenizer.vocab_size else b""


def finite(logprob: float) -> float:
    """JSON has no infinity: OpenAI says -9999 for what cannot be."""
    return max(logprob, -9999.0)


def _entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    data = token_bytes(tokenizer, token)
    return {"token": data.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(data)}


def _add(new: list[Delta], deltas: list[Delta]) -> None:
    """Puts deltas behind others, joined to the last one where both go on with the same."""
    for delta in new:
        joined = _joined(deltas[-1], delta) if deltas else None
        if joined is None:
            deltas.append(delta)
        else:
            deltas[-1] = joined


def _joined(last: Delta, new: Delta) -> Delta | None:
    match last, new:
        case Delta(content=str(before)), Delta(content=str(text)):
            return Delta(content=before + text)
        case Delta(reasoning_content=str(before)), Delta(reasoning_content=str(text)):
            return Delta(reasoning_content=before + text)
        case Delta(tool_call=CallDelta() as call), Delta(tool_call=CallDelta(name=None) as more):
            return Delta(tool_call=replace(call, arguments=call.arguments + more.arguments))
    return None
