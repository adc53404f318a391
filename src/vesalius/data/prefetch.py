"""Prepares the next batches in a thread while the present one trains.

Torch releases the interpreter's lock while it computes, so a thread is enough, and unlike from a process no batch has
to be copied. The state is that of the batch last handed out, not of those that wait: a resumed run gets those again.
"""

import queue
import threading
from typing import Any, Self

from vesalius.data.batch import Batch
from vesalius.data.loader import BatchSource

_Item = tuple[Batch, dict[str, Any]] | BaseException


class Prefetch:
    """The batches of `source`, up to `depth` of them prepared ahead. Close it, or use it in a `with` statement.

    An exception in the source is raised where its batch would have come; StopIteration ends the batches.
    """

    def __init__(self, source: BatchSource, depth: int = 2) -> None:
        """Starts nothing; the thread starts with the first batch. ValueError where depth < 1."""
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self._source, self._depth = source, depth
        self._state = source.state_dict()
        self._worker: _Worker | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._worker is None:
            self._worker = _Worker(self._source, self._depth)
        item = self._worker.take()
        if isinstance(item, BaseException):
            self.close()
            raise item
        batch, self._state = item
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The source's state after the batch last handed out."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Throws away what waits and goes on from `state`."""
        self.close()
        self._source.load_state_dict(state)
        self._state = self._source.state_dict()

    def close(self) -> None:
        """Ends the thread and throws away what waits; the source is set back, so nothing is lost for who goes on."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
            self._source.load_state_dict(self._state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Worker:
    """The thread, the batches that wait, and how many more may."""

    def __init__(self, source: BatchSource, depth: int) -> None:
        self._source = source
        self._waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="vesalius-prefetch", daemon=True)
        self._thread.start()

    def take(self) -> _Item:
        item = self._waiting.get()
        self._room.release()
        return item

    def stop(self) -> None:
        self._stopped = True
        self._room.release()
        self._thread.join()

    def _work(self) -> None:
        while self._room.acquire() and not self._stopped:
            try:
                item = next(self._source), self._source.state_dict()
            except BaseException as error:  # noqa: BLE001  it is raised again where the batch is asked for
                self._waiting.put(error)
                return
            self._waiting.put(item)
