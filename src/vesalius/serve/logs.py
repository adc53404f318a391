"""A line of JSON for every request, and its notes; prompts only where the server is told to log them.

Each request has an id, its client's (`X-Request-Id`) or a new one, which comes back with the answer.
"""

import json
import logging
import re
import secrets
import sys
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vesalius.serve.errors import LEFT
from vesalius.serve.metrics import Metrics
from vesalius.serve.notes import Notes, begin_notes
from vesalius.serve.tracing import Tracing

LOG = logging.getLogger("vesalius.serve")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class JsonLines(logging.Formatter):
    """One object a line: time, level, event, and what the event tells."""

    def format(self, record: logging.LogRecord) -> str:
        time_of = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{time_of}.{record.msecs:03.0f}Z", "level": record.levelname.lower()}
        line |= {"event": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log(event: str, **facts: Any) -> None:
    """One line."""
    LOG.info(event, extra={"facts": facts})


def log_to_stderr() -> None:
    """Sends the server's lines, and uvicorn's warnings, to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("vesalius.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


class Watch:
    """Gives every request its id, and tells the log, the metrics and the traces of it when it is over. An ASGI
    middleware, the outermost."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing, paths: frozenset[str]) -> None:
        """`paths` are those that metrics name; all others are counted together, or a client could fill the memory."""
        self._app, self._metrics, self._tracing, self._paths = app, metrics, tracing, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        notes = begin_notes(_request_id(Headers(scope=scope)))
        status, complete = LEFT, False

        async def noting(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = notes.id
            await send(message)
            complete = complete or (message["type"] == "http.response.body" and not message.get("more_body"))

        with self._tracing.request(scope, notes):
            try:
                await self._app(scope, receive, noting)
            finally:
                self._tell(scope, notes, status if complete else LEFT)

    def _tell(self, scope: Scope, notes: Notes, status: int) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.requests.labels(path, str(status)).inc()
        facts = {"request_id": notes.id, "method": scope["method"], "path": scope["path"][:200], "status": status}
        facts["seconds"] = round(time.monotonic() - notes.started, 4)
        log("request", **facts, **_told(notes))


def _told(notes: Notes) -> dict[str, Any]:
    """What there is to tell of answers."""
    if notes.model is None:
        return {}
    facts: dict[str, Any] = {
        "model": notes.model,
        "prompt_tokens": notes.prompt_tokens,
        "completion_tokens": notes.completion_tokens,
        "finish_reasons": notes.finish_reasons,
    }
    if notes.first is not None:
        facts["first_token_seconds"] = round(notes.first, 4)
    return facts | ({"prompts": notes.prompts} if notes.prompts else {})


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
