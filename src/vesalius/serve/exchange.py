"""One request and its answer over HTTP: whole or as events, bounded in time, given up when the client goes.

A client that leaves is noticed while nothing is sent, and one that stays but does not read is no better: the time that
a request may take includes what it takes to send the answer. Whatever ends an exchange closes its generator or cancels
its coroutine, which takes its sequences out of the engine.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Literal, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vesalius.core.errors import VesaliusError
from vesalius.serve.errors import LEFT, ApiError, Json, as_api_error, dumps, timed_out

DONE = b"data: [DONE]\n\n"

How = Literal["done", "left", "late"]


class Exchange(Protocol):
    """A request that the engine has accepted. One of its two methods is called, once."""

    async def whole(self) -> dict[str, Any]:
        """The whole answer."""
        ...

    def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events, several in one piece where they came together."""
        ...

    def failed(self, error: Exception) -> bytes:
        """The event that tells of an error, when events have begun."""
        ...


async def respond(request: Request, exchange: Exchange, seconds: float, *, stream: bool) -> Response:
    """The response to a request, streamed or whole. ApiError where it took longer than `seconds`."""
    if stream:
        return EventStream(exchange, seconds)
    return Json(await finished(request.receive, exchange.whole(), seconds))


async def finished(receive: Receive, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
    """The result of `work`. It is cancelled where the client leaves; ApiError where it takes too long."""
    task = asyncio.ensure_future(work)
    how = await _race(task, receive, seconds)
    if how == "done":
        return task.result()
    if how == "late":
        raise timed_out(seconds)
    raise ApiError(LEFT, "the client left")  # nobody reads it, but the log


class EventStream(Response):
    """Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, seconds: float) -> None:
        # A proxy must neither keep events back nor keep them.
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._exchange, self._seconds = exchange, seconds
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self._send_all(send))
        how = await _race(task, receive, self._seconds)
        if how == "done":
            task.result()
        elif how == "late" and not self._is_sending:
            await _send(send, self._exchange.failed(timed_out(self._seconds)), more=False)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        events = self._exchange.events()
        try:
            async for event in events:
                self._is_sending = True
                await _send(send, event, more=True)
                self._is_sending = False
        except VesaliusError as error:
            await _send(send, self._exchange.failed(error), more=False)
            return
        finally:
            await events.aclose()
        await _send(send, b"", more=False)


def error_event(error: Exception) -> bytes:
    """An error within a stream, as chats and completions tell it."""
    return b"data: " + dumps(as_api_error(error).body) + b"\n\n"


async def _send(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _race(task: "asyncio.Future[Any]", receive: Receive, seconds: float) -> How:
    """Waits for the first: that the task is done, that the client leaves, or that the time is up. Cancels the task
    where it is not done, and waits until it has cleaned up."""
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return "done" if task.done() else "left" if leaving.done() else "late"
    finally:
        pending = [waiting for waiting in (task, leaving) if not waiting.done()]
        for waiting in pending:
            waiting.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Waits until the client is gone; the request has been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass
