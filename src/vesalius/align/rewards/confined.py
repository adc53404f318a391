"""The process that runs a model's Python: it reads code and calls, locks itself in, and says what each call gives.

Run as a file, it imports nothing of this package. What it may not do is kept from it by the kernel, not by Python: code
that can reach every object of the interpreter would find its way around whatever Python forbids.

    resource limits   memory, processor time, no file longer than nothing, no core dump, no second process
    an alarm          ends it although its parent may be gone; its signals can be neither caught nor put off
    seccomp           of system calls only those that computing takes (core/seccomp.py)

Modules are imported before, since afterwards there are no files. What the code prints is thrown away.
"""

import ast
import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

MODULES = (
    "abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy dataclasses datetime "
    "decimal enum fractions functools hashlib heapq io itertools json math numbers operator random re statistics "
    "string struct textwrap time types typing unicodedata"
)
"""What an answer may import, besides what a Python interpreter always has."""

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # prctl(2)


def main() -> None:
    """Reads one JSON object, writes a line for each call as soon as it is done."""
    asked = json.load(sys.stdin.buffer)
    results = _take_streams()
    _limit(asked["cpu_seconds"], asked["wall_seconds"], asked["memory"])
    try:
        for name in _imported(asked["code"]):
            __import__(name)
        namespace: dict[str, Any] = {"__name__": "answer"}
        _lock(bytes.fromhex(asked["filter"]))
        exec(asked["code"], namespace)  # noqa: S102  what all of this is for
    except BaseException as error:  # noqa: BLE001  SystemExit and whatever else the code raises
        _write(results, {"error": _told(error)})
    else:
        for arguments in asked["calls"]:
            _write(results, _called(namespace.get(asked["function"]), arguments))
    os._exit(0)  # nothing that the code left behind is to run


def _take_streams() -> int:
    """Standard input and output lead nowhere from here on -> where the results are written."""
    results, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    return results


def _limit(cpu_seconds: int, wall_seconds: int, memory: int) -> None:
    import resource  # not on Windows, where this file is imported for `decode` only

    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    signal.alarm(wall_seconds)


def _lock(program: bytes) -> None:
    """Lets the kernel refuse everything but computing. OSError where it will not."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_char_p)]

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    lines = ctypes.create_string_buffer(program, len(program))
    filter_ = Program(len(program) // 8, ctypes.cast(lines, ctypes.c_char_p))
    for arguments in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.addressof(filter_), 0, 0)):
        if prctl(*arguments) != 0:
            os._exit(ctypes.get_errno() or 1)  # never run the code unconfined


def _imported(code: str) -> Iterator[str]:
    """The modules that the code names and may have; those that it may not, it will not find."""
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            if name in MODULES.split():
                yield name
            if name in ("datetime", "time"):
                yield "_strptime"  # which they import when it is first needed


def _called(function: Any, arguments: list[Any]) -> dict[str, Any]:
    if not callable(function):
        return {"error": "the code defines no such function"}
    try:
        return {"value": encode(function(*map(decode, arguments)))}
    except BaseException as error:  # noqa: BLE001  as above; the next call may do better
        return {"error": _told(error)}


def _told(error: BaseException) -> str:
    """The error in a line; its text is the code's, and may itself go wrong."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:  # noqa: BLE001
        return type(error).__name__[:200]


def encode(value: Any) -> Any:
    """A value of builtin types as JSON: what JSON lacks is an object of its type's name. TypeError for other types,
    which could be equal to everything.

    >>> encode({"a": (1, {2})})
    {'dict': [['a', {'tuple': [1, {'set': [2]}]}]]}
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [encode(part) for part in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [encode(part) for part in value]}
    if kind is dict:
        return {"dict": [[encode(key), encode(part)] for key, part in value.items()]}
    raise TypeError(f"a value of type {kind.__name__}, expected plain data")


def decode(value: Any) -> Any:
    """What `encode` was given. ValueError for anything else.

    >>> decode(encode({"a": (1, {2})}))
    {'a': (1, {2})}
    """
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [decode(part) for part in value]
        case {"dict": list(pairs)} if len(value) == 1 and all(isinstance(p, list) and len(p) == 2 for p in pairs):
            return {decode(key): decode(part) for key, part in pairs}
        case {"tuple": list(parts)} if len(value) == 1:
            return tuple(decode(part) for part in parts)
        case {"set": list(parts)} if len(value) == 1:
            return {decode(part) for part in parts}
        case {"frozenset": list(parts)} if len(value) == 1:
            return frozenset(decode(part) for part in parts)
    raise ValueError("not plain data")


def _write(results: int, line: dict[str, Any]) -> None:
    try:
        text = json.dumps(line)
    except ValueError as error:  # a whole number of too many digits
        text = json.dumps({"error": _told(error)})
    left = text.encode() + b"\n"
    while left:
        left = left[os.write(results, left) :]


if __name__ == "__main__":
    main()
