"""Tasks that a program can check: generated from a seed, or out of files of rows.

    tasks:arithmetic?seed=0&count=4000&digits=2&operations=add,subtract    tasks:words?…    tasks:python?…

    number   {"prompt": "…", "answer": 42}             a number, also after GSM8K's "####"
    exact    {"prompt": "…", "answer": "Paris"}
    json     {"prompt": "…", "schema": {…}}            a JSON Schema
    python   {"prompt": "…", "tests": ["assert add(1, 2) == 3", …]}

`messages` may stand for `prompt`, and so may `question`; `system` goes before them; `kind` is needed only where an
answer that is a number is to be matched as text. A test has to be one call compared with one value, both literals: the
process that runs the call never sees the value, which a whole `assert` would give away (align/rewards/sandbox.py).
"""

import ast
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any
from urllib.parse import parse_qsl

import jsonschema

from vesalius.core.errors import UserError, nearest
from vesalius.data.arithmetic_tasks import arithmetic_tasks
from vesalius.data.messages import Message, read_message, read_system, read_turns, shown
from vesalius.data.python_tasks import python_tasks
from vesalius.data.row_sources import read_sources
from vesalius.data.rows import Row
from vesalius.data.task import KINDS, Case, Task
from vesalius.data.word_tasks import word_tasks

_MADE: dict[str, Callable[..., Iterator[Task]]] = {
    "tasks:arithmetic": arithmetic_tasks,
    "tasks:words": word_tasks,
    "tasks:python": python_tasks,
}


def read_tasks(specs: Sequence[str]) -> Iterator[Task]:
    """The tasks of every spec in order: a name as above, a path, a glob, or `hf:owner/name[:split]`.

    UserError at once where nothing has the name or an option is wrong; while reading, with file and line, where a row
    has no prompt, nothing to check an answer by, or a test that is no call compared with a value.
    """
    made = {spec: _generator(spec) for spec in specs if spec.startswith("tasks:")}
    return read_sources(specs, made, _tasks)


def _generator(spec: str) -> Callable[[], Iterator[Task]]:
    name, _, query = spec.partition("?")
    if name not in _MADE:
        raise UserError(f"unknown tasks {name!r}, {nearest(name, _MADE)}")
    options: dict[str, int | str] = {}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in (known := signature(_MADE[name]).parameters):
            raise UserError(f"{spec}: unknown option {key!r}, {nearest(key, known)}")
        options[key] = text if key == "operations" else _whole(spec, key, text)
    return partial(_MADE[name], **options)


def _whole(spec: str, key: str, text: str) -> int:
    low, high = {"digits": (1, 4), "count": (1, 100_000)}.get(key, (0, 2**31))
    if not text.isdecimal() or not low <= int(text) <= high:
        raise UserError(f"{spec}: {key} = {text!r}, expected a whole number from {low} to {high}")
    return int(text)


def _tasks(row: Row) -> Iterator[Task]:
    messages = _messages(row)
    kind: Any = row.values.get("kind") or _guessed(row)
    if kind not in KINDS:
        raise UserError(f"{row.place}: unknown kind {shown(kind)}, {nearest(str(kind), KINDS)}")
    key = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).hexdigest()
    yield Task(messages=messages, kind=kind, name=row.place, split_key=key, **_CHECKS[kind](row))


def _messages(row: Row) -> list[Message]:
    for name in ("messages", "prompt", "question"):
        if value := row.values.get(name):
            turns = [read_message("user", value, row.place)] if isinstance(value, str) else read_turns(value, row.place)
            if turns[-1]["role"] == "assistant":
                raise UserError(f"{row.place}: {name} ends with the assistant's turn, expected a question to answer")
            return read_system(row) + turns
    found = ", ".join(sorted(row.values)) or "none"
    raise UserError(f"{row.place} has the fields {found}; expected prompt or messages, and what checks an answer")


def _guessed(row: Row) -> str:
    """The kind of a row that does not say it."""
    if "tests" in row.values:
        return "python"
    if "schema" in row.values:
        return "json"
    return "number" if _number(row.values.get("answer")) else "exact"


def _number(answer: Any) -> str:
    """A number as text, "" where it is none. GSM8K writes the way to it and "####" before it."""
    text = str(answer).rpartition("####")[2].strip().replace(",", "") if not isinstance(answer, bool) else ""
    try:
        return text if math.isfinite(float(text)) else ""
    except ValueError:
        return ""


def _by_number(row: Row) -> dict[str, Any]:
    if not (number := _number(row.values.get("answer"))):
        raise UserError(f"{row.place}: answer must be a number, got {shown(row.values.get('answer'))}")
    return {"answer": number}


def _by_text(row: Row) -> dict[str, Any]:
    answer = row.values.get("answer")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise UserError(f"{row.place}: answer must be a text that is not empty, got {shown(answer)}")
    return {"answer": str(answer).strip()}


def _by_schema(row: Row) -> dict[str, Any]:
    schema = row.values.get("schema")
    if isinstance(schema, str):  # files of columns cannot hold objects of many shapes
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise UserError(f"{row.place}: schema is not JSON ({error}): repair it") from error
    if not isinstance(schema, dict) or not schema:
        raise UserError(f"{row.place}: schema must be a JSON Schema as an object, got {shown(schema)}")
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UserError(f"{row.place}: schema is no JSON Schema ({error.message}): repair it") from error
    return {"schema": schema}


def _by_tests(row: Row) -> dict[str, Any]:
    tests = row.values.get("tests")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise UserError(f"{row.place}: tests must be a list of texts, at least one, got {shown(tests)}")
    read = [_case(test, row.place) for test in tests]
    if len(names := sorted({name for name, _ in read})) > 1:
        raise UserError(f"{row.place}: the tests call {' and '.join(names)}, expected one function in all of them")
    return {"function": read[0][0], "cases": tuple(case for _, case in read)}


def _case(test: str, place: str) -> tuple[str, Case]:
    """The function that a test calls, and the test.

    >>> _case("assert add(1, 2) == 3", "here")
    ('add', Case(arguments=(1, 2), expected=3))
    """
    try:
        match ast.parse(test).body:
            case [ast.Assert(ast.Compare(ast.Call(ast.Name(name), arguments, []), [ast.Eq()], [expected]))]:
                case = Case(tuple(map(ast.literal_eval, arguments)), ast.literal_eval(expected))
                if _is_plain([*case.arguments, case.expected]):
                    return name, case
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what `ast` says of what is no literal
        pass
    raise UserError(f"{place}: the test {shown(test)} must be of the form `assert name(literals) == literal`")


def _is_plain(value: Any) -> bool:
    """Whether the sandbox can hand it on: no bytes, no complex numbers."""
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, list | tuple | set):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


_CHECKS: Mapping[str, Callable[[Row], dict[str, Any]]] = {
    "number": _by_number,
    "exact": _by_text,
    "json": _by_schema,
    "python": _by_tests,
}
