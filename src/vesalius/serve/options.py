"""Settings of a server and its engine as they are typed: NAME=VALUE, the value as in TOML, or plain text."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from vesalius.core.errors import UserError, nearest
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
    values = dict(map(_pair, changes))
    known = [field.name for kind in (ServerSettings, EngineOptions) for field in fields(kind)]
    if unknown := next((name for name in values if name not in known), None):
        raise UserError(f"unknown setting {unknown!r}, {nearest(unknown, known)}")
    return ServerSettings(**_of(ServerSettings, values), **given), EngineOptions(
        **_of(EngineOptions, {**SERVED, **values})
    )


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


def _pair(change: str) -> tuple[str, Any]:
    name, equals, text = (part.strip() for part in change.partition("="))
    if not equals:
        raise UserError(f"{change!r} is not of the form name=value, for example timeout=60")
    try:
        return name, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return name, None if text.lower() == "none" else text


def _of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are fields of `kind`, as their types want them."""
    types = get_type_hints(kind)
    try:
        return {name: TypeAdapter(types[name]).validate_python(values[name]) for name in values if name in types}
    except ValidationError as error:
        wrong = error.errors()[0]
        name = next(name for name in values if name in types and values[name] == wrong["input"])
        raise UserError(f"{name} = {wrong['input']!r}: {wrong['msg']}") from error
