"""What every endpoint asks of the server: the model that is served, tickets for answers, and whether there is room.

The queue is bounded where requests come in. What is open already and what a request adds must fit into what the engine
writes at once and `max_queue` beside; else the client is told when to come again, by how long answers took of late.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from vesalius.core.errors import VesaliusError
from vesalius.infer.engine import Engine
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.params import SamplingParams
from vesalius.infer.sequence import Constraint, Sequence
from vesalius.serve.engine_thread import Ask, EngineThread, Ticket
from vesalius.serve.errors import SHOWN, ApiError, too_busy, unavailable
from vesalius.serve.logs import LOG
from vesalius.serve.metrics import Metrics
from vesalius.serve.settings import ServerSettings
from vesalius.serve.tools.style import Style, style_of

RECENT = 0.9
"""How much the time that earlier answers took weighs against that of the last one."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model under the name that clients call it by; `created` is when it was put in, in seconds since 1970.

    adapter   the adapter of `lm` that answers under this name; None: none
    variants  the same model under other names, with adapters
    """

    name: str
    lm: LanguageModel
    adapter: str | None = None
    variants: tuple["Served", ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def style(self) -> Style:
        """How it writes thoughts and calls."""
        return style_of(self.lm.tokenizer)

    @property
    def all(self) -> tuple["Served", ...]:
        """Itself and its variants."""
        return self, *self.variants

    @property
    def context(self) -> int:
        """Tokens that prompt and answer have together at most."""
        return self.lm.engine.context


class Service:
    """One server's model and queue. An async context manager: its engine's thread lives as long as that."""

    def __init__(self, served: Served, settings: ServerSettings, reload: Callable[[str], Served]) -> None:
        """`reload` opens the model that a reference names; it is called in a thread of its own."""
        self.served = served
        self.settings = settings
        self.metrics = Metrics(lambda: self.served.lm.engine)
        self.is_draining = False
        self.broken: BaseException | None = None
        self.on_broken: Callable[[], None] = lambda: None
        self._reload = reload
        self._thread: EngineThread | None = None
        self._seconds = 1.0  # that an answer took of late
        self._swapping = asyncio.Lock()

    async def __aenter__(self) -> "Service":
        self._thread = EngineThread(self.served.lm.engine, self._ended)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abandon()
        if self._thread is not None:
            await self._thread.stopped()

    def abandon(self) -> None:
        """Takes nothing more, and ends the engine's thread without waiting for anything."""
        self.is_draining = True
        if self._thread is not None:
            self._thread.stop_soon()

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered."""
        return self._thread is not None and not self.is_draining and self.broken is None

    @property
    def open(self) -> int:
        """Answers that wait and that are being written."""
        return self._thread.open if self._thread is not None else 0

    def model(self, name: str | None) -> Served:
        """The model that a request means. 404 where it is none of those that are here."""
        if name is None:
            return self.served
        found = next((served for served in self.served.all if served.name == name), None)
        if found is None:
            names = " or ".join(repr(served.name) for served in self.served.all)
            raise ApiError(
                404,
                f"the model {name[:SHOWN]!r} is not served here: ask for {names}",
                param="model",
                code="model_not_found",
            )
        return found

    async def generate(
        self,
        served: Served,
        prompts: list[list[int]],
        params: SamplingParams,
        *,
        n: int = 1,
        constraint: Constraint | None = None,
        patient: bool = False,
    ) -> Ticket:
        """A ticket for n answers to each prompt, one prompt after another, which the engine has accepted. 429 where
        there is no room for them."""

        def own() -> Constraint | None:
            """One for each prompt: it goes on with what is written."""
            return constraint.fork() if constraint is not None else None

        size = n * len(prompts)
        return await self._ask(
            lambda engine: _add_all(
                engine,
                prompts,
                lambda ids: engine.add(ids, params, n=n, constraint=own(), adapter=served.adapter),
            ),
            size,
            patient=patient,
        )

    async def score(self, served: Served, texts: list[list[int]]) -> Ticket:
        """A ticket for the log-probabilities of texts."""
        return await self._ask(
            lambda engine: _add_all(engine, texts, lambda ids: [engine.score(ids, adapter=served.adapter)]),
            len(texts),
            patient=True,
        )

    async def embed(self, served: Served, texts: list[list[int]]) -> Ticket:
        """A ticket for the mean hidden states of texts."""
        return await self._ask(
            lambda engine: _add_all(engine, texts, lambda ids: [engine.embed(ids, adapter=served.adapter)]),
            len(texts),
            patient=True,
        )

    async def swap(self, reference: str) -> Served:
        """Puts another model in. Answers that have begun are finished by the one they began with. Errors as where a
        model is opened."""
        async with self._swapping:
            served = await asyncio.to_thread(self._reload, reference)
            if self._thread is None or not self.is_ready:
                raise unavailable("the server is shutting down")
            self._thread.swap(served.lm.engine)
            self.served = served
        return served

    def note_answer(self, reason: str, tokens: int, *, first: float, whole: float) -> None:
        """Counts an answer, with the seconds from the request to its first and its last token."""
        self.metrics.answered(reason, tokens, first, whole)
        self._seconds = RECENT * self._seconds + (1 - RECENT) * whole

    async def _ask(self, ask: Ask, size: int, *, patient: bool) -> Ticket:
        if self._thread is None or not self.is_ready:
            raise unavailable("the server is shutting down" if self.is_draining else "the engine has stopped")
        running = self.served.lm.engine.options.max_running
        room = running + self.settings.max_queue
        if size > room:
            raise ApiError(400, f"n = {size} answers at once, expected at most {room}", param="n")
        if self.open + size > room:
            raise too_busy(min(60, math.ceil(self._seconds * (1 + self.settings.max_queue / running))))
        ticket = self._thread.ask(ask, size, patient=patient)
        try:
            await ticket.accepted()
        except BaseException:  # also where the client leaves meanwhile
            ticket.close()
            raise
        return ticket

    def _ended(self, error: BaseException | None) -> None:
        self.broken = error
        if error is not None:
            LOG.error("engine broke down", exc_info=error)
            self.on_broken()


def _add_all(engine: Engine, texts: list[list[int]], add: Callable[[list[int]], list[Sequence]]) -> list[Sequence]:
    """Adds all texts to an engine, or none where one is refused."""
    added: list[Sequence] = []
    try:
        for ids in texts:
            added += add(ids)
    except VesaliusError:
        for sequence in added:
            engine.cancel(sequence)
        raise
    return added
