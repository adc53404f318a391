"""Answers in steps with a label for each, out of files of rows or made by seed.

    prompt, completions, labels    text or messages, a list of texts, and as many of true and false (TRL's format for
                                   stepwise supervision)

A row that lacks one of them, an empty step or a number of labels that is not that of the steps is an error with file
and line. Left out: PRM800K's own nested format, which its readers turn into this one.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from vesalius.core.errors import UserError
from vesalius.data.arithmetic_steps import arithmetic_solutions
from vesalius.data.messages import Message, read_message, read_system, read_turns, shown
from vesalius.data.row_sources import read_sources
from vesalius.data.rows import Row
from vesalius.data.solution import Solution

_MADE = {"steps:arithmetic": arithmetic_solutions}


def read_solutions(specs: Sequence[str]) -> Iterator[Solution]:
    """The solutions of every spec in order: `steps:arithmetic`, a path, a glob, or `hf:owner/name[:split]`.

    Files and errors are those of `conversations.read_conversations`.
    """
    return read_sources(specs, _MADE, _solution)


def _solution(row: Row) -> Iterator[Solution]:
    match row.values:
        case {"prompt": prompt, "completions": steps, "labels": labels}:
            pass
        case values:
            found = ", ".join(sorted(values)) or "none"
            raise UserError(f"{row.place} has the fields {found}; expected prompt, completions, labels")
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise UserError(f"{row.place}: completions must be a list of steps, none of them empty, got {shown(steps)}")
    if not isinstance(labels, list) or not all(label in (True, False) for label in labels):
        raise UserError(f"{row.place}: labels must be a list of true and false, got {shown(labels)}")
    if len(steps) != len(labels):
        raise UserError(f"{row.place} has {len(steps)} steps and {len(labels)} labels: give each step one label")
    before = _prompt(prompt, row)
    key = hashlib.blake2b(json.dumps(before).encode(), digest_size=16).hexdigest()
    yield Solution(before, tuple(steps), tuple(bool(label) for label in labels), row.place, key)


def _prompt(prompt: Any, row: Row) -> list[Message]:
    turns = [read_message("user", prompt, row.place)] if isinstance(prompt, str) else read_turns(prompt, row.place)
    if not turns:
        raise UserError(f"{row.place}: the prompt is empty: fill it in or remove the row")
    return read_system(row) + turns
