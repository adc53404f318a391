"""POST /v1/chat/completions: answers to a conversation, whole or in chunks."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vesalius.infer.step import Step
from vesalius.serve.answers import Answers, Piece, Told, logprob_entry, put_together
from vesalius.serve.errors import dumps
from vesalius.serve.exchange import DONE, error_event
from vesalius.serve.prompting import Conversation, begin
from vesalius.serve.protocol.chat import ChatRequest
from vesalius.serve.protocol.chat import Conversation as ConversationRequest
from vesalius.serve.protocol.formats import form_of
from vesalius.serve.protocol.messages import ToolChoice
from vesalius.serve.protocol.sampling import check_bias
from vesalius.serve.service import Served, Service
from vesalius.serve.tools.parsing import Delta


async def begin_chat(service: Service, body: ChatRequest) -> "ChatExchange":
    """The exchange for a request, which the engine has accepted. ApiError or UserError where it has not."""
    served = service.model(body.model)
    check_bias(body.logit_bias, served.lm.config.vocab_size)
    top = (body.top_logprobs or 0) if body.logprobs else 0
    limit = body.max_completion_tokens or body.max_tokens or served.context
    form = form_of(body.response_format)
    params = body.params(served.lm.generation_defaults, max_tokens=limit, top_logprobs=top, **form)
    n = body.n or 1
    answers = await begin(service, served, conversation_of(body), params, n=n, patient=not body.stream)
    return ChatExchange(served, body, answers)


def conversation_of(body: ConversationRequest) -> Conversation:
    """What a request tells the model."""
    options = dict(body.chat_template_kwargs or {})
    given: dict[str, Any] = {}
    if isinstance(body, ChatRequest):
        if body.reasoning_effort is not None:
            options.setdefault("reasoning_effort", body.reasoning_effort)
        choice = body.tool_choice
        given["choice"] = choice.model_dump() if isinstance(choice, ToolChoice) else choice
        given["parallel"] = body.parallel_tool_calls is not False
    return Conversation(messages=body.messages, tools=body.tools or (), options=options, **given)


class ChatExchange:
    """A chat and its answers."""

    def __init__(self, served: Served, body: ChatRequest, answers: Answers) -> None:
        self._served, self._body, self._answers = served, body, answers
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": served.name,
        }
        options = body.stream_options
        self._with_usage = bool(options and options.include_usage)
        self._top = body.top_logprobs or 0

    async def whole(self) -> dict[str, Any]:
        told = await put_together(self._answers)
        choices = [
            {
                "index": index,
                "message": _message(one),
                "logprobs": self._logprobs(one.steps),
                "finish_reason": one.finish_reason,
            }
            for index, one in enumerate(told)
        ]
        return {**self._head, "choices": choices, "usage": self._answers.usage.as_chat()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        chunk = _Chunks({**self._head, "object": "chat.completion.chunk"}, with_usage=self._with_usage)
        first = {"role": "assistant", "content": ""}
        yield b"".join(chunk.choice(index, first) for index in range(self._body.n or 1))
        async with aclosing(self._answers.pieces()) as batches:
            async for pieces in batches:
                if events := b"".join(event for piece in pieces for event in self._events_of(chunk, piece)):
                    yield events
        yield (chunk.usage(self._answers.usage.as_chat()) if self._with_usage else b"") + DONE

    def failed(self, error: Exception) -> bytes:
        return error_event(error)

    def _events_of(self, chunk: "_Chunks", piece: Piece) -> list[bytes]:
        logprobs = self._logprobs(piece.steps) if piece.steps else None
        deltas = [_delta(delta) for delta in piece.deltas]
        if logprobs is not None and not deltas:  # tokens whose text is held back
            deltas = [{"content": ""}]
        events = [chunk.choice(piece.choice, delta, logprobs if i == 0 else None) for i, delta in enumerate(deltas)]
        if piece.finish_reason is not None:
            events.append(chunk.choice(piece.choice, {}, None, piece.finish_reason))
        return events

    def _logprobs(self, steps: list[Step]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        entries = [logprob_entry(self._served.lm.tokenizer, step, self._top) for step in steps]
        return {"content": entries, "refusal": None}


class _Chunks:
    """Chunks of one stream: what all have in common is written once, since there is one for every token."""

    def __init__(self, head: dict[str, Any], *, with_usage: bool) -> None:
        self._begin = b"data: " + dumps(head)[:-1] + b',"choices":['
        self._end = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def choice(
        self, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None
    ) -> bytes:
        """The chunk with one choice."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._begin + dumps(choice) + self._end

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The last chunk, which has no choice."""
        return self._begin + b'],"usage":' + dumps(usage) + b"}\n\n"


def _message(told: Told) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": told.content, "refusal": None}
    if told.reasoning:
        message["reasoning_content"] = told.reasoning
    if told.calls:
        message["content"] = told.content or None
        message["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in told.calls
        ]
    return message


def _delta(delta: Delta) -> dict[str, Any]:
    if delta.content is not None:
        return {"content": delta.content}
    if delta.reasoning_content is not None:
        return {"reasoning_content": delta.reasoning_content}
    call = delta.tool_call
    assert call is not None
    function = {"arguments": call.arguments}
    if call.name is None:
        return {"tool_calls": [{"index": call.index, "function": function}]}
    first = {"index": call.index, "id": call.id, "type": "function", "function": {"name": call.name, **function}}
    return {"tool_calls": [first]}
