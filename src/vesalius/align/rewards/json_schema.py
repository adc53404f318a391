"""The answer is JSON that a schema accepts, by the library jsonschema.

The whole answer has to be it, alone or as one fenced block: JSON somewhere in a text is no answer that a program could
read. An object with the same key twice is refused, since which one counts depends on who reads it; so are NaN and
Infinity, which JSON lacks. References to other documents are not fetched. A `pattern` that takes exponential time takes
it here too: the schema is the task's, and what it is used on is at most `MOST` characters.
"""

import json
import re
from typing import Any

import jsonschema
import referencing

from vesalius.align.rewards.answers import whole
from vesalius.align.rewards.verdict import Verdict
from vesalius.data.task import Task

MOST = 1 << 16

_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)


def schema_reward(task: Task, completion: str) -> Verdict:
    """1 where the answer fits the task's schema, else 0."""
    said = whole(completion)
    if said is None or len(said) > MOST:
        return Verdict(0.0, "no single answer" if said is None else f"more than {MOST} characters")
    fenced = _FENCED.fullmatch(said)
    try:
        value = json.loads(fenced[1] if fenced else said, object_pairs_hook=_object, parse_constant=_no_constant)
        validator = jsonschema.validators.validator_for(task.schema)
        validator(task.schema, registry=referencing.Registry()).validate(value)
    except (ValueError, RecursionError) as error:
        return Verdict(0.0, f"not JSON: {str(error)[:120]}")
    except jsonschema.ValidationError as error:
        return Verdict(0.0, f"does not fit the schema: {error.message[:120]}")
    except referencing.exceptions.Unresolvable as error:
        return Verdict(0.0, f"the schema refers to {error.ref!r}, which is not in it")
    return Verdict(1.0, "fits the schema")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has the same key twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
