"""Who may ask, and how much a request may be: the first things that meet it.

Keys are compared in constant time, as digests, so that the time tells nothing about them. Where no key is needed,
since only this machine can connect, a web page in the user's own browser still could: requests have to be JSON, which a
page of another site may not send without permission, and to name this machine as their host, which a foreign name that
was pointed at 127.0.0.1 does not (DNS rebinding).
"""

import asyncio
import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vesalius.serve.errors import AUTHENTICATION, ApiError, Json
from vesalius.serve.settings import ServerSettings, is_loopback

OPEN = ("/health", "/ready", "/")
"""Paths that tell nothing: for whoever watches the server, and the chat page, which asks its user for a key."""

OPEN_FOLDER = "/page/"
"""The page's files."""


class Gate:
    """Refuses what must not come in. An ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._digests = [_digest(key) for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_key(headers, scope["path"])
            self._check_size(headers)
        except ApiError as error:
            await Json(error.body, error.status_code, error.headers)(scope, receive, send)
            return
        await self._app(scope, self._bounded(receive), send)

    def _check_host(self, headers: Headers) -> None:
        if self._settings.api_keys or not self._settings.is_local:
            return
        host = (
            headers.get("host", "").rsplit(":", 1)[0] if not headers.get("host", "").endswith("]") else headers["host"]
        )
        if not is_loopback(host.strip("[]")):
            raise ApiError(403, "this server answers requests to localhost only: a key lets others in", code="host")

    def _check_key(self, headers: Headers, path: str) -> None:
        if not self._digests or path in OPEN or path.startswith(OPEN_FOLDER):
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip()) if scheme.lower() == "bearer" else b""
        # Every key is compared, so that the time does not tell which one it was.
        if not sum(hmac.compare_digest(given, digest) for digest in self._digests):
            raise ApiError(
                401,
                "no valid API key: send one as `Authorization: Bearer KEY`",
                kind=AUTHENTICATION,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_size(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.body_bytes:
            raise self._too_large()

    def _bounded(self, receive: Receive) -> Receive:
        """`receive`, until a body has become too large or has taken too long. The body alone: what comes after it, that
        the client has left, may take as long as it likes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.body_seconds
        size, more = 0, True

        async def bounded() -> Message:
            nonlocal size, more
            if not more:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, f"the request did not come in within {self._settings.body_seconds:g} s") from None
            more = bool(message.get("more_body"))
            size += len(message.get("body", b""))
            if size > self._settings.body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the request has more than {self._settings.body_bytes} bytes: send less",
            code="request_too_large",
            headers={"Connection": "close"},
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
