"""`vesalius serve` and `vesalius batch`: a model is opened, and served until the process is told to stop, or until a
file of requests is answered.

    SIGTERM, SIGINT   no new requests; what has begun may go on for `drain_seconds`; exit code 0
    SIGINT again      at once
    SIGHUP            opens the model anew from where it is, and puts it in without interrupting anybody
"""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

import uvicorn

from vesalius.core.errors import Interrupted, UserError, VesaliusError
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.options import EngineOptions
from vesalius.serve.app import create_app
from vesalius.serve.batch import Batch, Counts, OnProgress, run_batch
from vesalius.serve.connection import connection_class
from vesalius.serve.logs import log, log_to_stderr
from vesalius.serve.service import Served, Service
from vesalius.serve.settings import ServerSettings


def serve(
    model: str,
    settings: ServerSettings,
    options: EngineOptions,
    *,
    name: str | None = None,
    adapters: Mapping[str, str] | None = None,
) -> None:
    """Serves a model, and under further names the same with adapters, until SIGTERM or SIGINT. UserError where one
    cannot be opened; VesaliusError where the address cannot be had or the engine broke down."""
    log_to_stderr()
    listening = bound_socket(settings)  # an address that is taken shows before the model is opened

    def opened(reference: str) -> Served:
        same = reference == model
        return open_served(reference, options, name=name if same else None, adapters=adapters if same else None)

    service = Service(opened(model), settings, opened)
    server = Server(service, reload=model)
    try:
        server.run([listening])
    finally:
        service.abandon()  # where uvicorn was forced to leave
        listening.close()
    if service.broken is not None:
        raise VesaliusError(f"the engine broke down: {service.broken!r}") from service.broken


def bound_socket(settings: ServerSettings) -> socket.socket:
    """A socket at the address; it listens when the server does. VesaliusError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        where = f"port {settings.port} of {settings.host}"
        raise VesaliusError(f"cannot listen on {where} ({error.strerror}): give another --port or --host") from error
    return bound


def batch(
    model: str,
    files: Batch,
    options: EngineOptions,
    *,
    name: str | None = None,
    adapters: Mapping[str, str] | None = None,
    in_flight: int | None = None,
    on_progress: OnProgress,
) -> Counts:
    """Answers what is left of a batch, by default twice as many requests at a time as the engine writes at once, so
    that it never waits for one. Interrupted where a person stops it; what is answered is kept."""
    served = open_served(model, options, name=name, adapters=adapters)
    bound = in_flight or 2 * options.max_running
    service = Service(served, ServerSettings(max_queue=bound * ServerSettings.max_answers), lambda _: served)
    try:
        return asyncio.run(run_batch(service, files, in_flight=bound, on_progress=on_progress))
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted: the answers so far are in {files.target}; start again to go on") from error


def open_served(
    reference: str, options: EngineOptions, *, name: str | None = None, adapters: Mapping[str, str] | None = None
) -> Served:
    """A model that is ready to be served, under `name` or what its reference says, and under their names with each of
    the adapters. Errors as where they are opened."""
    name = name or name_of(reference)
    if name in (adapters or {}):
        raise UserError(f"{name!r} is what clients call the model itself: give the adapter another name")
    lm = LanguageModel.load(reference, options, adapters=adapters)
    return Served(name, lm, variants=tuple(Served(other, lm, adapter=other) for other in adapters or {}))


def name_of(reference: str) -> str:
    """What clients call a model: an alias or a hub id as it is, a file or directory by its own name.

    >>> name_of("models/small.gguf"), name_of("runs/train/model"), name_of("smollm2-135m-instruct")
    ('small', 'train', 'smollm2-135m-instruct')
    """
    path = Path(reference)
    if not path.exists() and path.suffix != ".gguf" and len(path.parts) <= 2:
        return reference
    last = path.resolve()
    return last.parent.name if last.name == "model" else last.name.removesuffix(".gguf")


class Server(uvicorn.Server):
    """uvicorn, with this server's signals."""

    def __init__(self, service: Service, *, reload: str) -> None:
        """`reload` is what SIGHUP opens anew."""
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                create_app(service),
                host=settings.host,
                port=settings.port,
                http=connection_class(settings.body_seconds),
                ws="none",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
            )
        )
        self._service, self._reload = service, reload
        self._tasks: set[asyncio.Task[None]] = set()
        service.on_broken = self._give_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            address = self.servers[0].sockets[0].getsockname()
            shown = f"[{address[0]}]" if ":" in address[0] else address[0]
            log("serving", url=f"http://{shown}:{address[1]}", model=self._service.served.name)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = self._service.is_draining = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Without uvicorn's last act, which is to kill its own process by the signal that it was stopped with."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        loop.add_signal_handler(signal.SIGHUP, self._begin_reload)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _begin_reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._swap())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _swap(self) -> None:
        try:
            served = await self._service.swap(self._reload)
        except VesaliusError as error:  # the old one goes on
            log("swap failed", error=str(error))
        else:
            log("swapped", model=served.name)

    def _give_up(self) -> None:
        self.should_exit = True
