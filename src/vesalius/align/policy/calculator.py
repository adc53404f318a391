"""A tool for episodes: what the assistant writes between <calc> and </calc> is computed, and the result told to it.

An answer without such a call, or with several, ends the episode.
"""

import ast
import operator
import re
from collections.abc import Callable

CALL = re.compile(r"<calc>(.*?)</calc>", re.DOTALL)
LONGEST = 100
"""Characters of an expression."""

OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def calculator(turn: str) -> str | None:
    """The result of the one call in a turn, or what is wrong with it; None where there is none.

    >>> calculator("Let me see: <calc>12 * (3 + 4)</calc>"), calculator("It is 84.")
    ('84', None)
    """
    calls = CALL.findall(turn)
    if len(calls) != 1:
        return None
    if len(calls[0]) > LONGEST:
        return f"error: longer than {LONGEST} characters"
    try:
        result = _value(ast.parse(calls[0].strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError) as error:
        return f"error: {type(error).__name__}"
    return f"{result:g}" if isinstance(result, float) else str(result)


def _value(node: ast.expr) -> float:
    """ValueError for all but numbers and the four operations."""
    match node:
        case ast.Constant(int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
        case ast.BinOp(left, operation, right) if type(operation) in OPERATIONS:
            return OPERATIONS[type(operation)](_value(left), _value(right))
    raise ValueError("not arithmetic")
