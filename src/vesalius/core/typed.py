"""Settings as they are typed: NAME=VALUE, the value as in TOML, or plain text where it is not TOML; "none" is None."""

import tomllib
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from vesalius.core.errors import UserError


def typed_pair(change: str, example: str) -> tuple[str, str]:
    """Name and value of one change. UserError, which shows an example, where it is none.

    >>> typed_pair("min_p = 0.05", "top_k=40")
    ('min_p', '0.05')
    """
    name, equals, text = (part.strip() for part in change.partition("="))
    if not equals:
        raise UserError(f"{change!r} is not of the form name=value, for example {example}")
    return name, text


def typed_value(text: str) -> Any:
    """What a text says.

    >>> typed_value("75_000_000"), typed_value("['a', 'b']"), typed_value("END"), typed_value("None")
    (75000000, ['a', 'b'], 'END', None)
    """
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def fields_of(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are fields of a dataclass, as its types want them. UserError for one that is none."""
    types = get_type_hints(kind)
    found: dict[str, Any] = {}
    for name in filter(types.__contains__, values):
        try:
            found[name] = TypeAdapter(types[name]).validate_python(values[name])
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"{name} = {values[name]!r}: {message[:1].lower()}{message[1:]}") from error
    return found
