"""How a server is run: where it listens, who may ask, and how much it takes at once.

Every bound exists because without it one client could take the server from all others: a body that fills the memory, a
request that is never sent to its end, an answer that nobody reads, a queue that only grows.
"""

import ipaddress
from dataclasses import dataclass

from vesalius.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """UserError where they make no sense together.

    host, port         where it listens; port 0 takes any that is free
    api_keys           one of them must come with every request; none are needed where only this machine can connect
    allow_open         serve other machines without a key all the same
    max_queue          answers that may wait for their turn, beyond those that the engine writes at once
    timeout            seconds that a request may take from its last byte in to its last byte out
    body_bytes         the largest request
    body_seconds       seconds that a request may take to come in, its headers and its body each
    max_answers        the most answers (`n`, and prompts of one request together) that a request may ask for
    drain_seconds      how long answers may go on after the server was told to stop
    log_prompts        write prompts into the log, which has no text of anybody otherwise
    allow_swap         let a request put another model in the place of the served one
    traces             report every request to OpenTelemetry, as the environment's OTEL_… variables say
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    allow_open: bool = False
    max_queue: int = 256
    timeout: float = 600.0
    body_bytes: int = 4 * 2**20
    body_seconds: float = 20.0
    max_answers: int = 128
    drain_seconds: float = 30.0
    log_prompts: bool = False
    allow_swap: bool = False
    traces: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"port = {self.port}, expected 0 to 65535")
        for name in ("timeout", "body_seconds", "drain_seconds", "body_bytes", "max_answers"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} = {getattr(self, name)}, expected a number above 0")
        if self.max_queue < 0:
            raise UserError(f"max_queue = {self.max_queue}, expected a whole number from 0")
        if any(not key or not key.isascii() or not key.isprintable() or " " in key for key in self.api_keys):
            raise UserError("an API key is empty or has blanks or characters beyond ASCII: HTTP could not carry it")
        if not (self.is_local or self.api_keys or self.allow_open):
            raise UserError(
                f"host {self.host} lets other machines in, and there is no API key: give one with --api-key or in "
                "VESALIUS_API_KEY, or say --set allow_open=true where everybody who can connect may use the model"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine and no other.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
