"""The engine's own thread, and the tickets by which the event loop asks it for answers.

The engine belongs to one thread, which does nothing but step it; the event loop never waits for the model. What the
loop wants goes through a queue that the thread empties between two steps. What the engine has written goes back with
one call into the loop for each step, however many sequences it was for: waking a loop costs a system call, and at 64
sequences of 100 tokens a second that many calls alone would take a good part of a core.

Another model is put in by giving the thread another engine. The old one goes on with what it has begun and is let go
of when that is finished, so nobody notices but by the answers.
Left out: engines in processes of their own.
"""

import asyncio
import queue
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from vesalius.core.errors import VesaliusError
from vesalius.infer.engine import Engine
from vesalius.infer.sequence import Sequence
from vesalius.infer.step import Step

Ask = Callable[[Engine], list[Sequence]]
"""Adds sequences to an engine; called in its thread."""


class News(NamedTuple):
    """What one sequence of a ticket has got: its place in the ticket, its new steps, and whether these are the last."""

    place: int
    steps: tuple[Step, ...]
    is_over: bool


@dataclass(eq=False)
class _Watch:
    """Whose a sequence is, in the engine's thread; `begun` once its ticket has heard of it."""

    ticket: "Ticket"
    place: int
    engine: Engine
    begun: bool = False


class Ticket:
    """Answers that were asked for. Belongs to the event loop; `sequences` are there once the engine has taken them.

    patient  whether it wants to hear of a sequence only when that begins and when it is over: the loop is not woken
             for each token then
    """

    def __init__(self, thread: "EngineThread", size: int, *, patient: bool) -> None:
        self.patient = patient
        self._size = size
        self.sequences: list[Sequence] = []
        self.is_closed = False
        self.asked = time.monotonic()
        self._thread = thread
        self._news: list[News] = []
        self._error: VesaliusError | None = None
        self._open: set[int] | None = None  # places of sequences that go on; None before the engine has taken them
        self._changed = asyncio.Event()

    async def accepted(self) -> None:
        """Waits until the engine has taken the request. Its error, where it has not."""
        while self._open is None and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error

    async def news(self) -> AsyncGenerator[list[News], None]:
        """What came since the last time, until all sequences are over. The error of the engine, where one failed."""
        while True:
            news, self._news = self._news, []
            if news:
                yield news
            if self._error is not None:
                raise self._error
            if self._open is not None and not self._open and not self._news:
                return
            if not self._news:
                await self._wait()

    async def finished(self) -> list[Sequence]:
        """Waits until all is over and gives the sequences with all that they hold."""
        async for _ in self.news():
            pass
        return self.sequences

    def stop(self, place: int) -> None:
        """No more of one sequence is wanted."""
        if self._open and place in self._open:
            self._open.discard(place)
            self._thread.cancel([self.sequences[place]])

    def close(self) -> None:
        """No more of any is wanted; what runs is cancelled and its memory free after the step that is going on."""
        if self.is_closed:
            return
        self.is_closed = True
        self._thread.forget(self)

    @property
    def size(self) -> int:
        """How many sequences go on, or will when the engine has taken them."""
        return self._size if self._open is None else len(self._open)

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _taken(self, sequences: list[Sequence]) -> None:
        self.sequences, self._open = sequences, set(range(len(sequences)))
        self._changed.set()

    def _hear(self, news: News) -> None:
        if self._open is None or news.place not in self._open:  # stopped meanwhile
            return
        self._news.append(news)
        if news.is_over:
            self._open.discard(news.place)
        self._changed.set()

    def _fail(self, error: VesaliusError) -> None:
        self._error = error
        self._changed.set()


class EngineThread:
    """Steps engines until it is stopped. Made and used in a running event loop, but for `_run` and what that calls."""

    def __init__(self, engine: Engine, on_end: Callable[[BaseException | None], None]) -> None:
        """`on_end` is called in the loop when the thread ends: with None after `stop`, else with what broke it."""
        self.engine = engine
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: set[Ticket] = set()
        self._watches: dict[Sequence, _Watch] = {}
        self._engines: list[Engine] = [engine]
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._run_to_end = self._loop.run_in_executor(executor, self._run)
        self._run_to_end.add_done_callback(self._end)

    @property
    def open(self) -> int:
        """How many sequences wait and run, as the loop knows it."""
        return sum(ticket.size for ticket in self._tickets)

    def ask(self, ask: Ask, size: int, *, patient: bool) -> Ticket:
        """Hands a request for `size` sequences to the engine. Whoever asks has to close the ticket."""
        ticket, engine = Ticket(self, size, patient=patient), self.engine
        self._tickets.add(ticket)
        if self._run_to_end.done():
            ticket._fail(VesaliusError("the engine has stopped"))
        self._inbox.put(lambda: self._add(ticket, engine, ask))
        return ticket

    def cancel(self, sequences: list[Sequence]) -> None:
        """Takes sequences out of their engine."""
        self._inbox.put(lambda: self._cancel(sequences))

    def forget(self, ticket: Ticket) -> None:
        """Takes all of a ticket's sequences out, also where the engine has yet to take them in."""
        self._tickets.discard(ticket)
        self._inbox.put(lambda: self._cancel([s for s, watch in self._watches.items() if watch.ticket is ticket]))

    def swap(self, engine: Engine) -> None:
        """What is asked from now on goes to another engine."""
        self.engine = engine
        self._inbox.put(lambda: self._engines.append(engine))

    def stop_soon(self) -> None:
        """Ends the thread after the step that it is at. May be called from anywhere."""
        self._inbox.put(None)

    async def stopped(self) -> None:
        """Waits until it has ended."""
        await asyncio.wait({self._run_to_end})

    # From here on: in the engine's thread.

    def _run(self) -> None:
        while True:
            while not (self._inbox.empty() and any(engine.has_work for engine in self._engines)):
                command = self._inbox.get()
                if command is None:
                    return
                command()
            self._engines = [engine for engine in self._engines if engine.has_work or engine is self.engine]
            for engine in self._engines:
                if engine.has_work:
                    self._tell(engine.step())

    def _add(self, ticket: Ticket, engine: Engine, ask: Ask) -> None:
        if ticket.is_closed:
            return
        try:
            sequences = ask(engine)
        except VesaliusError as error:
            self._loop.call_soon_threadsafe(ticket._fail, error)
            return
        for place, sequence in enumerate(sequences):
            self._watches[sequence] = _Watch(ticket, place, engine)
        self._loop.call_soon_threadsafe(ticket._taken, sequences)

    def _cancel(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            watch = self._watches.pop(sequence, None)
            if watch is not None and not sequence.is_over:
                watch.engine.cancel(sequence)

    def _tell(self, changed: list[Sequence]) -> None:
        """One call into the loop for all that a step has brought."""
        told: list[tuple[Ticket, News | VesaliusError]] = []
        for sequence in changed:
            watch = self._watches.get(sequence)
            if watch is None or (watch.ticket.patient and watch.begun and not sequence.is_over):
                continue
            watch.begun = True
            if sequence.is_over:
                del self._watches[sequence]
            if sequence.error is not None:
                told.append((watch.ticket, sequence.error))
            else:
                told.append((watch.ticket, News(watch.place, tuple(sequence.steps), sequence.is_over)))
            sequence.steps.clear()
        if told:
            self._loop.call_soon_threadsafe(_hand_out, told)

    # From here on: in the loop again.

    def _end(self, ended: "asyncio.Future[None]") -> None:
        error = None if ended.cancelled() else ended.exception()
        for ticket in list(self._tickets):
            ticket._fail(VesaliusError("the engine broke down" if error else "the server has stopped"))
        self._on_end(error)


def _hand_out(told: list[tuple[Ticket, News | VesaliusError]]) -> None:
    for ticket, news in told:
        if isinstance(news, News):
            ticket._hear(news)
        else:
            ticket._fail(news)
