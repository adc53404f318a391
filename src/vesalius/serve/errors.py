"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}} with a status that its clients know.

They retry 408, 409, 429 and 5xx and give up on other 4xx, so what would fail again is never one of the former.
Messages name the field and what was expected, never the whole input: it may be a megabyte, or somebody's secret.
"""

import json
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from vesalius.core.errors import UserError, VesaliusError

INVALID, SERVER, QUEUE, AUTHENTICATION = (
    "invalid_request_error",
    "server_error",
    "rate_limit_error",
    "authentication_error",
)
LEFT = 499
"""nginx's status for a client that went before it had its answer."""

SHOWN = 200
"""Characters of a value that a message quotes at most."""


class ApiError(HTTPException):
    """An answer that is an error. Starlette's class, so that FastAPI lets it through wherever it is raised."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.kind, self.param, self.code = kind, param, code

    @property
    def body(self) -> dict[str, Any]:
        """What the client gets."""
        return {"error": {"message": self.detail, "type": self.kind, "param": self.param, "code": self.code}}


def too_busy(seconds: int) -> ApiError:
    """429: the queue is full."""
    return ApiError(
        429,
        f"the queue is full: try again in {seconds} s",
        kind=QUEUE,
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def unavailable(why: str) -> ApiError:
    """503: nothing wrong with the request, but nobody is here to answer it."""
    return ApiError(503, why, kind=SERVER, code="unavailable", headers={"Retry-After": "5"})


def timed_out(seconds: float) -> ApiError:
    """504: the answer took too long."""
    return ApiError(
        504, f"the answer was not ready after {seconds:g} s: ask for fewer tokens", kind=SERVER, code="timeout"
    )


def as_api_error(error: Exception) -> ApiError:
    """Any known error as what the client gets."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError | ValidationError):
        return _invalid(error.errors()[0])
    if isinstance(error, HTTPException):  # the router's: no such path, or not with this method
        return ApiError(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, UserError):
        too_long = "context is" in str(error)
        return ApiError(400, str(error), code="context_length_exceeded" if too_long else None)
    if isinstance(error, VesaliusError):
        return ApiError(500, str(error), kind=SERVER)
    return ApiError(500, "the server failed at this request; its log says where", kind=SERVER)


class Json(Response):
    """A value as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumps(content)


async def error_response(_: Request, error: Exception) -> Response:
    """The handler that the app has for every error."""
    known = as_api_error(error)
    return Json(known.body, known.status_code, known.headers)


def dumps(value: Any) -> bytes:
    """JSON without blanks. A lone surrogate, which a client may have sent inside of JSON, becomes a question mark:
    UTF-8 has no bytes for it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def _invalid(error: Mapping[str, Any]) -> ApiError:
    """The first thing that is wrong with a request, as pydantic tells it."""
    where = [str(part) for part in error["loc"] if part != "body"]
    name = ".".join(where)[:SHOWN]
    code = "unknown_parameter" if error["type"] == "unknown_parameter" else None
    said = error["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{name}: {said}" if name else said, param=name or None, code=code)
