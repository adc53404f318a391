"""Settings of a server and its engine as they are typed."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from vesalius.core.errors import UserError, nearest
from vesalius.core.typed import fields_of, typed_pair, typed_value
from vesalius.infer.options import EngineOptions
from vesalius.serve.settings import ServerSettings

SERVED: Mapping[str, Any] = {"cache_dtype": "int8"}
"""What a served engine does otherwise than one of a single caller: a step of many sequences reads as many bytes of keys
and values as of weights, and in int8 they are a quarter. SmolLM2-135M keeps its perplexity (bench/RESULTS.md).
"""


def read_options(changes: Iterable[str], **given: Any) -> tuple[ServerSettings, EngineOptions]:
    """Defaults with changes such as "timeout=60" or "max_running=16", and with what is `given` for the server.

    UserError for an unknown name, or a value that is none for it.

    >>> read_options(["max_running=16"], port=9000)[1].max_running
    16
    """
    pairs = [typed_pair(change, "timeout=60") for change in changes]
    values = {name: typed_value(text) for name, text in pairs}
    known = [field.name for kind in (ServerSettings, EngineOptions) for field in fields(kind)]
    if unknown := next((name for name in values if name not in known), None):
        raise UserError(f"unknown setting {unknown!r}, {nearest(unknown, known)}")
    options = EngineOptions(**fields_of(EngineOptions, {**SERVED, **values}))
    return ServerSettings(**fields_of(ServerSettings, values), **given), options


def read_adapters(given: Iterable[str]) -> dict[str, str]:
    """Adapters by name. UserError for what is not NAME=DIRECTORY, or a name that comes twice.

    >>> read_adapters(["docs=runs/lora"])
    {'docs': 'runs/lora'}
    """
    adapters: dict[str, str] = {}
    for one in given:
        name, _, place = (part.strip() for part in one.partition("="))
        if not name or not place:
            raise UserError(f"adapter {one!r} is not of the form NAME=DIRECTORY, for example docs=runs/lora")
        if name in adapters:
            raise UserError(f"two adapters are called {name!r}: give each a name of its own")
        adapters[name] = place
    return adapters
