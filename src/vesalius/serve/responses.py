"""POST /v1/responses: a chat in the form of items and events. Nothing is stored, so a later request brings the whole
conversation, and `previous_response_id` is refused."""

import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vesalius.serve.answers import Answers, logprob_entry
from vesalius.serve.errors import ApiError, as_api_error, dumps
from vesalius.serve.prompting import Conversation, begin
from vesalius.serve.protocol.formats import form_of
from vesalius.serve.protocol.responses import LOGPROBS, FlatChoice, ResponseRequest, messages_of_items, tools_of
from vesalius.serve.protocol.sampling import sampling_params
from vesalius.serve.response_items import Event, Items
from vesalius.serve.service import Served, Service


async def begin_response(service: Service, body: ResponseRequest) -> "ResponseExchange":
    """The exchange for a request, which the engine has accepted. ApiError or UserError where it has not."""
    served = service.model(body.model)
    if body.previous_response_id is not None or body.background:
        name = "background" if body.background else "previous_response_id"
        raise ApiError(400, f"{name}: this server stores no responses: send the whole conversation", param=name)
    top = (body.top_logprobs or 0) if LOGPROBS in (body.include or ()) else 0
    params = sampling_params(
        {"temperature": body.temperature, "top_p": body.top_p},
        served.lm.generation_defaults,
        max_tokens=body.max_output_tokens or served.context,
        top_logprobs=top,
        **form_of(body.text.format if body.text else None),
    )
    answers = await begin(service, served, _conversation(body), params, n=1, patient=not body.stream)
    told = {"temperature": params.temperature, "top_p": params.top_p if params.top_p is not None else 1.0}
    return ResponseExchange(served, body, answers, told)


class ResponseExchange:
    """A response on its way."""

    def __init__(self, served: Served, body: ResponseRequest, answers: Answers, settings: dict[str, Any]) -> None:
        self._served, self._body, self._answers = served, body, answers
        self._items = Items()
        self._number = 0
        self._with_logprobs = LOGPROBS in (body.include or ())
        self._response = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": served.name,
            "output": [],
            **_echoed(body),
            **settings,
            "usage": None,
        }

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self._steps()) as steps:
            async for _ in steps:
                pass
        return self._response

    async def events(self) -> AsyncGenerator[bytes, None]:
        yield self._sent([self._about("response.created"), self._about("response.in_progress")])
        async with aclosing(self._steps()) as steps:
            async for events in steps:
                if events:
                    yield self._sent(events)
        yield self._sent([self._about(f"response.{self._response['status']}")])

    def failed(self, error: Exception) -> bytes:
        known = as_api_error(error)
        self._response |= {"status": "failed", "error": {"code": "server_error", "message": known.detail}}
        return self._sent([self._about("response.failed")])

    async def _steps(self) -> AsyncGenerator[list[Event], None]:
        """Takes the answer in; the events of each of its pieces."""
        reason: str | None = None
        async with aclosing(self._answers.pieces()) as batches:
            async for pieces in batches:
                for piece in pieces:
                    logprobs = self._logprobs(piece.steps) if self._with_logprobs else []
                    reason = piece.finish_reason or reason
                    yield self._items.add(piece.deltas, logprobs)
        status = "incomplete" if reason == "length" else "completed"
        yield self._items.close(status)
        self._finish(status)

    def _logprobs(self, steps: list[Any]) -> list[dict[str, Any]]:
        return [logprob_entry(self._served.lm.tokenizer, step, self._body.top_logprobs or 0) for step in steps]

    def _finish(self, status: str) -> None:
        usage = self._answers.usage
        self._response |= {
            "status": status,
            "output": self._items.output,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
                "output_tokens": usage.written,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning},
                "total_tokens": usage.prompt + usage.written,
            },
        }

    def _about(self, kind: str) -> Event:
        return {"type": kind, "response": dict(self._response)}

    def _sent(self, events: list[Event]) -> bytes:
        """Events as they go out, numbered."""
        sent = []
        for event in events:
            data = dumps({**event, "sequence_number": self._number})
            sent.append(b"event: " + event["type"].encode() + b"\ndata: " + data + b"\n\n")
            self._number += 1
        return b"".join(sent)


def _conversation(body: ResponseRequest) -> Conversation:
    choice = body.tool_choice
    effort = body.reasoning.effort if body.reasoning else None
    return Conversation(
        messages=messages_of_items(body),
        tools=tools_of(body.tools),
        choice={"type": "function", "function": {"name": choice.name}} if isinstance(choice, FlatChoice) else choice,
        parallel=body.parallel_tool_calls is not False,
        options={"reasoning_effort": effort} if effort else {},
    )


def _echoed(body: ResponseRequest) -> dict[str, Any]:
    """What a response repeats of its request."""
    form = body.text.format if body.text and body.text.format else None
    choice = body.tool_choice
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
        "store": False,
        "text": {"format": form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}},
        "tool_choice": choice.model_dump() if isinstance(choice, FlatChoice) else choice or "auto",
        "tools": [{"strict": None, "parameters": None, **tool.model_dump()} for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs,
        "truncation": "disabled",
        "user": body.user,
    }
