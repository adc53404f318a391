"""uvicorn's connections with one more bound: the headers of a request have to come in within a time.

uvicorn closes a connection that is idle between two requests, but not one that has begun a request and goes on with a
byte now and then, so that a few hundred of those would take all there are (slowloris). The body has its own bound in
security.py.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """A connection that is closed where no whole request head has come in `head_seconds`, from its beginning or from
    the first byte after an answer."""

    head_seconds: float

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()  # the beginning of the next request may be here already

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Starts the clock where a request has yet to begin, stops it where one is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_class(head_seconds: float) -> type[Connection]:
    """Connections with this bound; uvicorn makes them itself and has no place for it."""
    return type("BoundedConnection", (Connection,), {"head_seconds": head_seconds})
