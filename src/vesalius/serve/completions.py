"""POST /v1/completions: texts gone on from, whole or in chunks. With `echo` the prompt comes first, with its logprobs
where they are asked for, so that `max_tokens: 0` scores a text.

Choice p × n + i is the i-th answer to prompt p, as OpenAI numbers them. The likeliest tokens in the place of a prompt's
are not told: the engine keeps the logprob of each only.
"""

import asyncio
import codecs
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from vesalius.infer.params import SamplingParams
from vesalius.serve.answers import Answers, Piece, Usage, finite, put_together, token_bytes
from vesalius.serve.errors import ApiError, dumps
from vesalius.serve.exchange import DONE, error_event
from vesalius.serve.prompting import compiled, note_prompt, plain_writings
from vesalius.serve.protocol.completions import CompletionRequest, prompts_of
from vesalius.serve.protocol.sampling import check_bias
from vesalius.serve.service import Served, Service
from vesalius.tokenizers.tokenizer import Tokenizer

MAX_TOKENS = 16
"""OpenAI's, where the request doesn't say."""


async def begin_completions(service: Service, body: CompletionRequest) -> "CompletionExchange":
    """The exchange for a request, which the engine has accepted. ApiError or UserError where it has not."""
    served = service.model(body.model)
    _check(body, served, service.settings.max_answers)
    prompts = await asyncio.to_thread(_encode, served, body)
    for ids in prompts:
        note_prompt(service, served, ids)
    wanted = body.echo and body.logprobs is not None
    logprobs = await _score(service, served, prompts) if wanted else [None] * len(prompts)
    echoes = [Echo(ids, told) for ids, told in zip(prompts, logprobs, strict=True)] if body.echo else []
    answers = None if body.max_tokens == 0 else await _begin(service, served, body, prompts)
    return CompletionExchange(served, body, answers, prompts, echoes)


@dataclass(frozen=True)
class Echo:
    """A prompt that comes with its answers: ids (T,), and where wanted T - 1 logprobs of all but the first."""

    ids: list[int]
    logprobs: list[float] | None


class CompletionExchange:
    """Prompts and their answers; none where nothing is to be written."""

    def __init__(
        self,
        served: Served,
        body: CompletionRequest,
        answers: Answers | None,
        prompts: list[list[int]],
        echoes: list[Echo],
    ) -> None:
        self._served, self._body, self._answers, self._echoes = served, body, answers, echoes
        self._n = body.n or 1
        self._usage = answers.usage if answers is not None else Usage(prompt=sum(map(len, prompts)))
        self._lists = [_Logprobs(served.lm.tokenizer, body.logprobs or 0) for _ in range(self._n * len(prompts))]
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": served.name,
        }

    async def whole(self) -> dict[str, Any]:
        told = await put_together(self._answers) if self._answers is not None else [None] * len(self._lists)
        choices = []
        for index, one in enumerate(told):
            text, logprobs = self._echo(index)
            if one is not None:
                text += one.content
                logprobs = _extended(logprobs, self._told(index, Piece(index, [], one.steps, None)))
            reason = one.finish_reason if one is not None else "length"
            choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
        return {**self._head, "choices": choices, "usage": self._usage.as_chat()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        nothing_more = "length" if self._answers is None else None
        if self._echoes:
            indices = range(len(self._lists))
            yield b"".join(self._event(index, *self._echo(index), nothing_more) for index in indices)
        if self._answers is not None:
            async with aclosing(self._answers.pieces()) as batches:
                async for pieces in batches:
                    if events := b"".join(self._piece(piece) for piece in pieces):
                        yield events
        options = self._body.stream_options
        if options and options.include_usage:
            yield b"data: " + dumps({**self._head, "choices": [], "usage": self._usage.as_chat()}) + b"\n\n"
        yield DONE

    def failed(self, error: Exception) -> bytes:
        return error_event(error)

    def _piece(self, piece: Piece) -> bytes:
        text = "".join(delta.content or "" for delta in piece.deltas)
        logprobs = self._told(piece.choice, piece)
        if not text and not piece.finish_reason and not (logprobs and piece.steps):
            return b""
        return self._event(piece.choice, text, logprobs, piece.finish_reason)

    def _event(self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return b"data: " + dumps({**self._head, "choices": [choice]}) + b"\n\n"

    def _echo(self, index: int) -> tuple[str, dict[str, Any] | None]:
        """The prompt of a choice with its logprobs; nothing where it is not wanted."""
        if not self._echoes:
            return "", None
        echo = self._echoes[index // self._n]
        text = self._served.lm.tokenizer.decode(echo.ids, skip_special=True)
        if echo.logprobs is None:
            return text, None
        rows: list[Row] = [
            (token, logprob, None) for token, logprob in zip(echo.ids, [None, *echo.logprobs], strict=True)
        ]
        return text, self._lists[index].told(rows)

    def _told(self, index: int, piece: Piece) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        return self._lists[index].told([(step.id, step.logprob, step.top_logprobs) for step in piece.steps])


Row = tuple[int, float | None, dict[int, float] | None]


@dataclass
class _Logprobs:
    """The logprobs of one choice in the form that completions have: lists, and where each token begins in the text."""

    tokenizer: Tokenizer
    top: int
    _place: int = 0
    _decoder: codecs.IncrementalDecoder = field(default_factory=codecs.getincrementaldecoder("utf-8"))

    def __post_init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def told(self, rows: list[Row]) -> dict[str, Any]:
        """The next tokens, each with its logprob and the likeliest in its place."""
        told: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token, logprob, likeliest in rows:
            data = token_bytes(self.tokenizer, token)
            told["tokens"].append(_shown(data))
            told["token_logprobs"].append(None if logprob is None else finite(logprob))
            told["top_logprobs"].append(self._likeliest(likeliest))
            told["text_offset"].append(self._place)
            special = token in self.tokenizer.special_tokens.values()
            self._place += 0 if special else len(self._decoder.decode(data))
        return told

    def _likeliest(self, likeliest: dict[int, float] | None) -> dict[str, float] | None:
        """Best first; of two tokens with the same text the better one stays."""
        if likeliest is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in list(likeliest.items())[: self.top]:
            found.setdefault(_shown(token_bytes(self.tokenizer, token)), finite(logprob))
        return found


def _shown(data: bytes) -> str:
    """A token as a key: bytes that are no UTF-8 as OpenAI writes them, so that two of them stay apart.

    >>> _shown(b"a"), _shown(b"\\xe5\\xb3")
    ('a', 'bytes:\\\\xe5\\\\xb3')
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _extended(first: dict[str, Any] | None, more: dict[str, Any] | None) -> dict[str, Any] | None:
    return more if first is None or more is None else {name: first[name] + more[name] for name in more}


def _check(body: CompletionRequest, served: Served, max_answers: int) -> None:
    n, prompts = body.n or 1, len(prompts_of(body.prompt))
    check_bias(body.logit_bias, served.lm.config.vocab_size)
    if body.suffix is not None:
        raise ApiError(400, "suffix: this model goes on from a text, it fills no gaps", param="suffix")
    if body.best_of not in (None, n):
        raise ApiError(400, f"best_of = {body.best_of}, expected n ({n}): all answers are given", param="best_of")
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens = 0 without echo asks for nothing", param="max_tokens")
    if n * prompts > max_answers:
        raise ApiError(400, f"{prompts} prompts × n = {n} answers, expected {max_answers} at most", param="n")


def _encode(served: Served, body: CompletionRequest) -> list[list[int]]:
    prompts = prompts_of(body.prompt)
    return [served.lm.prompt_ids(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]


async def _score(service: Service, served: Served, texts: list[list[int]]) -> list[list[float] | None]:
    ticket = await service.score(served, texts)
    try:
        return [sequence.logprobs for sequence in await ticket.finished()]
    finally:
        ticket.close()


async def _begin(service: Service, served: Served, body: CompletionRequest, prompts: list[list[int]]) -> Answers:
    limit = MAX_TOKENS if body.max_tokens is None else body.max_tokens
    params: SamplingParams = body.params(
        served.lm.generation_defaults, max_tokens=limit, top_logprobs=body.logprobs or 0
    )
    n = body.n or 1
    constraint = await compiled(served, params.constraint)
    patient = not body.stream and not params.stop
    ticket = await service.generate(served, prompts, params, n=n, constraint=constraint, patient=patient)
    return Answers(service, ticket, plain_writings(served, params, n * len(prompts)), n=n)
