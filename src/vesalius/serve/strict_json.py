"""JSON as RFC 8259 has it: UTF-8, finite numbers, and not nested without end. Python's own reader takes NaN, makes
infinity of 1e999, and what walks a deep value later would exhaust its recursion."""

import json
import math
from typing import Any

from vesalius.serve.errors import ApiError

MAX_DEPTH = 100
"""Levels of lists and objects."""


def parse_json(data: bytes) -> Any:
    """The value. ApiError 400 where it is not JSON or nested too deep.

    >>> parse_json(b'{"n": [1, 2.5]}')
    {'n': [1, 2.5]}
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refused, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the request is not UTF-8: byte {error.start} is wrong") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise ApiError(400, f"the request is not valid JSON: {error}") from error
    if not _is_shallow(value):
        raise _too_deep()
    return value


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number in JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:50]} is beyond the numbers that a computer has")
    return number


def _is_shallow(value: Any) -> bool:
    """Whether it ends within MAX_DEPTH levels; found level by level."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level if isinstance(item, dict | list) for child in _children(item)]
        if not level:
            return True
    return False


def _children(item: dict[str, Any] | list[Any]) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item


def _too_deep() -> ApiError:
    return ApiError(400, f"the request is nested deeper than {MAX_DEPTH} levels")
