"""Settings of an answer as they are typed: NAME=VALUE, the value as in TOML, or plain text where it is not TOML.

What gives an answer its form may be long, so NAME=@FILE reads it from a file.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from vesalius.core.errors import UserError, nearest
from vesalius.infer.params import SamplingOptions, SamplingParams

IN_FILES = ("json_schema", "regex", "grammar")


def sampling_options(changes: Iterable[str]) -> SamplingOptions:
    """The settings that changes such as "min_p=0.05" ask for; "none" turns one off. UserError for an unknown name.

    >>> sampling_options(["min_p=0.05", "stop=['.', '!']", "top_k=none", "logit_bias={11 = -2.5}"])
    {'min_p': 0.05, 'stop': ['.', '!'], 'top_k': None, 'logit_bias': {'11': -2.5}}
    """
    known = [field.name for field in fields(SamplingParams)]
    found: dict[str, Any] = {}
    for change in changes:
        name, equals, text = (part.strip() for part in change.partition("="))
        if not equals:
            raise UserError(f"{change!r} is not of the form name=value, for example min_p=0.05")
        if name not in known:
            raise UserError(f"unknown setting {name!r}, {nearest(name, known)}")
        found[name] = _read(text[1:]) if name in IN_FILES and text.startswith("@") else _value(text)
    return cast(SamplingOptions, found)


def _read(file: str) -> str:
    try:
        return Path(file).read_text("utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error}): give a text file after the @") from error


def _value(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
