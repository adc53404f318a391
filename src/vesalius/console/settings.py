"""Settings of an answer, and of the engine that writes it, as they are typed (core/typed).

What gives an answer its form may be long, so NAME=@FILE reads it from a file.
"""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from vesalius.core.errors import UserError, nearest
from vesalius.core.typed import fields_of, typed_pair, typed_value
from vesalius.infer.options import EngineOptions
from vesalius.infer.params import SamplingOptions, SamplingParams

SAMPLING = [field.name for field in fields(SamplingParams)]
ENGINE = [field.name for field in fields(EngineOptions)]
IN_FILES = ("json_schema", "regex", "grammar")


def settings_of(changes: Iterable[str], **engine: Any) -> tuple[SamplingOptions, EngineOptions]:
    """What changes of either kind ask for, and what is given for the engine beside them. UserError for an unknown name,
    or a value that is none for the engine.

    >>> answer, engine = settings_of(["min_p=0.05", "weight_bytes=75_000_000"], speculation="ngram")
    >>> answer, engine.weight_bytes, engine.speculation
    ({'min_p': 0.05}, 75000000, 'ngram')
    """
    values = _values(changes, SAMPLING + ENGINE)
    answer = {name: value for name, value in values.items() if name in SAMPLING}
    return cast(SamplingOptions, answer), EngineOptions(**fields_of(EngineOptions, engine | values))


def sampling_options(changes: Iterable[str]) -> SamplingOptions:
    """The settings that changes such as "min_p=0.05" ask for; "none" turns one off. UserError for an unknown name.

    >>> sampling_options(["min_p=0.05", "stop=['.', '!']", "top_k=none", "logit_bias={11 = -2.5}"])
    {'min_p': 0.05, 'stop': ['.', '!'], 'top_k': None, 'logit_bias': {'11': -2.5}}
    """
    return cast(SamplingOptions, _values(changes, SAMPLING))


def _values(changes: Iterable[str], known: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for change in changes:
        name, text = typed_pair(change, "min_p=0.05")
        if name not in known:
            raise UserError(f"unknown setting {name!r}, {nearest(name, known)}")
        found[name] = _read(text[1:]) if name in IN_FILES and text.startswith("@") else typed_value(text)
    return found


def _read(file: str) -> str:
    try:
        return Path(file).read_text("utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error}): give a text file after the @") from error
