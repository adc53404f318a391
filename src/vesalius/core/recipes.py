"""Recipes: TOML ⇄ typed sections. Unknown keys are errors that name the nearest key.

A recipe is a pydantic model whose fields are sections, and a section is a pydantic model whose fields are settings.
This file knows no section by name: the stages that a recipe may hold are listed where they are run.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from vesalius.core.errors import UserError, nearest


class Section(BaseModel):
    """Base of every section of a recipe: frozen, and strict about the names it knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)


R = TypeVar("R", bound=BaseModel)


def load_recipe(path: Path | str, kind: type[R], overrides: Iterable[str] = ()) -> R:
    """Reads a TOML file into `kind`, after applying overrides such as "train.steps=100".

    UserError where the file is missing or not TOML, a key is unknown, or a value is of the wrong type.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"no recipe at {path}: give a TOML file or one of the names that `vesalius recipes` lists"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    return build_recipe(values, kind, overrides, where=str(path))


def build_recipe(values: dict[str, Any], kind: type[R], overrides: Iterable[str] = (), where: str = "recipe") -> R:
    """Checks plain values, with overrides applied, against `kind`. UserError as in `load_recipe`."""
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, kind)}") from error


def dump_recipe(recipe: BaseModel) -> str:
    """The recipe as TOML that `load_recipe` reads back to an equal value."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _apply(values: dict[str, Any], override: str) -> None:
    """Sets `a.b=value` in nested dicts; the value is TOML, or plain text where it is not valid TOML."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted.strip():
        raise UserError(f"--set {override!r} is not of the form section.key=value, for example --set train.steps=100")
    *sections, key = dotted.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {override!r}: {section!r} is a value, not a section")
    values[key] = _parse(text.strip())


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first of pydantic's complaints as one line: dotted key, what was got, what was expected."""
    first = error.errors()[0]
    *parents, name = [str(part) for part in first["loc"]] or ["recipe"]
    dotted = ".".join([*parents, name])
    if first["type"] == "extra_forbidden":
        return f"unknown key {dotted!r}, {nearest(name, _keys(kind, parents))}"
    message = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], dict):  # a rule about a whole section
        return f"{dotted}: {message}" if first["loc"] else message
    return f"{dotted} = {first['input']!r}: {message[:1].lower()}{message[1:]}"


def _keys(kind: type[BaseModel], parents: list[str]) -> list[str]:
    """The names that the section at `parents` knows."""
    for parent in parents:
        if parent.isdecimal():  # a place in a list of sections
            continue
        annotation = kind.model_fields[parent].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        kind = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(kind.model_fields)
