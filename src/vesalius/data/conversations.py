"""Conversations out of files of rows, whichever of the four usual shapes they have, or made from a library's own help.

    messages                         {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", …}]}
    prompt and completion            {"prompt": "…", "completion": "…"}
    Alpaca (Taori et al. 2023)       {"instruction": "…", "input": "…" or "", "output": "…"}
    ShareGPT                         {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}]}

Every shape becomes `messages` here, so nothing behind this file knows the others. What would teach nothing, or teach to
be silent, is an error with file and line, not a row that is skipped: a file that is half wrong should be looked at.
(What is right but does not fit a run's settings, such as its context, is dropped by the run, counted and named.)

Left out: tool calls and contents in parts (images). Preference pairs are no conversations: preferences.py reads them.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from vesalius.core.errors import UserError
from vesalius.data.conversation import Conversation
from vesalius.data.messages import Message, read_message, read_system, read_turns
from vesalius.data.python_questions import python_conversations
from vesalius.data.row_sources import read_sources
from vesalius.data.rows import Row
from vesalius.data.solved_tasks import solved_sources

_MADE = {"questions:python": python_conversations}
_SHAPES = "messages | prompt, completion | instruction, output | conversations"


def read_conversations(specs: Sequence[str]) -> Iterator[Conversation]:
    """The conversations of every spec in order: `questions:python`, tasks with their answers (`tasks:arithmetic`), a
    path, a glob, or `hf:owner/name[:split]`.

    Files may be .jsonl, .json, .csv or .parquet, and .gz or .zst of the text kinds. UserError at once where nothing has
    the name; while reading, with file and line, where a row is broken or has none of the four shapes, a role is
    unknown, an answer is empty, or nobody answers.
    """
    made = _MADE | solved_sources(specs)
    opened = [(spec, read_sources([spec], made, _conversation)) for spec in specs]
    return (replace(conversation, origin=spec) for spec, found in opened for conversation in found)


def _conversation(row: Row) -> Iterator[Conversation]:
    messages = _messages(row)
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(message["role"] for message in messages) or "no message"
        raise UserError(
            f"{row.place} has no assistant turn, only {roles}: there is nothing to learn from, remove the row"
        )
    content = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16)
    yield Conversation(messages, row.place, split_key=content.hexdigest())


def _messages(row: Row) -> list[Message]:
    match row.values:
        case {"messages": turns}:
            return read_turns(turns, row.place)
        case {"conversations": turns}:
            return read_system(row) + read_turns(turns, row.place)
        case {"prompt": prompt, "completion": answer}:
            pass
        case {"instruction": instruction, "output": answer}:
            addition = row.values.get("input") or ""
            prompt = f"{instruction}\n\n{addition}" if addition and isinstance(instruction, str) else instruction
        case values:
            found = ", ".join(sorted(values)) or "none"
            raise UserError(f"{row.place} has the fields {found}; expected those of one shape: {_SHAPES}")
    return [*read_system(row), read_message("user", prompt, row.place), read_message("assistant", answer, row.place)]
