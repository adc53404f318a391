"""Preference pairs and rated answers out of files of rows, whichever of the usual shapes they have.

    pairs     prompt, chosen, rejected    text, or messages; chosen and rejected may repeat the prompt's messages; a
                                          number `margin` says how much better the chosen one is
              chosen, rejected            whole conversations with a common beginning: messages, or text in the style of
                                          Bai et al. 2022 (arXiv:2204.05862), "\\n\\nHuman: …\\n\\nAssistant: …"
    ratings   prompt, completion, label   text or messages, and true where the answer is good (Ethayarajh et al. 2024,
                                          arXiv:2402.01306); a pair gives one good rating and one bad
    scores    prompt, completion, score   text or messages, and a number that says how good the answer is

A row of none of these shapes, an empty answer or a prompt that the two answers do not share is an error with file and
line. Answers that are the same can only be told from their tokens: the batch sources drop and name such pairs.

Left out: tool calls and contents in parts.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from vesalius.core.errors import UserError
from vesalius.data.messages import Message, read_message, read_system, read_turns, shown
from vesalius.data.mistaken_tasks import mistaken_sources
from vesalius.data.preference import Messages, Pair, Rating, ScoredAnswer
from vesalius.data.python_preferences import python_pairs
from vesalius.data.row_sources import read_sources
from vesalius.data.rows import Row

_SHAPES = "prompt, chosen, rejected | chosen, rejected"
_RATED_SHAPES = f"prompt, completion, label | {_SHAPES}"
_LABELS = {"true": True, "false": False, "1": True, "0": False}
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_pairs(specs: Sequence[str]) -> Iterator[Pair]:
    """The pairs of every spec in order: `pairs:python`, tasks with a right and a wrong answer (`tasks:arithmetic`), a
    path, a glob, or `hf:owner/name[:split]`.

    Files and errors are those of `conversations.read_conversations`.
    """
    return read_sources(specs, _made(specs), _pair)


def read_ratings(specs: Sequence[str]) -> Iterator[Rating]:
    """The rated answers of every spec in order, also those that pairs are made of."""
    made = {name: lambda make=make: _unpaired(make()) for name, make in _made(specs).items()}
    return read_sources(specs, made, _ratings)


def _made(specs: Sequence[str]) -> dict[str, Callable[[], Iterator[Pair]]]:
    return {"pairs:python": python_pairs, **mistaken_sources(specs)}


def read_scores(specs: Sequence[str]) -> Iterator[ScoredAnswer]:
    """The scored answers of every spec in order."""
    return read_sources(specs, {}, _scored)


def _pair(row: Row) -> Iterator[Pair]:
    match row.values:
        case {"chosen": chosen, "rejected": rejected}:
            prompt = row.values.get("prompt")
        case values:
            raise UserError(f"{row.place} has the fields {_listed(values)}; expected those of one shape: {_SHAPES}")
    before = [] if prompt is None else _prompt(prompt, row)
    sides = [_side(answer, before, row, name) for name, answer in (("chosen", chosen), ("rejected", rejected))]
    common = _common_length(*sides)
    better, worse = (_answer(side, common, row, name) for name, side in zip(("chosen", "rejected"), sides, strict=True))
    margin = _number(row, "margin") if row.values.get("margin") is not None else 0.0
    yield Pair(sides[0][:common], better, worse, row.place, _split_key(sides[0][:common]), margin)


def _ratings(row: Row) -> Iterator[Rating]:
    match row.values:
        case {"prompt": prompt, "completion": completion, "label": label}:
            pass
        case {"chosen": _, "rejected": _}:
            yield from _unpaired(_pair(row))
            return
        case values:
            found = _listed(values)
            raise UserError(f"{row.place} has the fields {found}; expected those of one shape: {_RATED_SHAPES}")
    desirable = _LABELS.get(str(label).lower())
    if desirable is None:
        raise UserError(f"{row.place}: label must be true or false, got {shown(label)}")
    before = _prompt(prompt, row)
    answer = _answer(_side(completion, before, row, "completion"), len(before), row, "completion")
    yield Rating(before, answer, desirable, row.place, _split_key(before))


def _scored(row: Row) -> Iterator[ScoredAnswer]:
    match row.values:
        case {"prompt": prompt, "completion": completion, "score": _}:
            pass
        case values:
            raise UserError(f"{row.place} has the fields {_listed(values)}; expected prompt, completion, score")
    before = _prompt(prompt, row)
    answer = _answer(_side(completion, before, row, "completion"), len(before), row, "completion")
    yield ScoredAnswer(before, answer, _number(row, "score"), row.place, _split_key(before))


def _number(row: Row, name: str) -> float:
    """A finite number, also as text: CSV knows nothing else."""
    try:
        value = float(row.values[name]) if not isinstance(row.values[name], bool) else math.nan
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{row.place}: {name} must be a number, got {shown(row.values[name])}")
    return value


def _unpaired(pairs: Iterator[Pair]) -> Iterator[Rating]:
    for pair in pairs:
        yield Rating(pair.prompt, pair.chosen, True, f"{pair.name} (chosen)", pair.split_key)
        yield Rating(pair.prompt, pair.rejected, False, f"{pair.name} (rejected)", pair.split_key)


def _prompt(prompt: Any, row: Row) -> Messages:
    return read_system(row) + _messages(prompt, "user", row)


def _side(answer: Any, before: Messages, row: Row, name: str) -> Messages:
    """The prompt and one answer as one conversation; the answer's own words may begin with the prompt again."""
    if isinstance(answer, str) and before:
        return [*before, read_message("assistant", answer, row.place)]
    turns = _messages(answer, None, row)
    if not turns:
        raise UserError(f"{row.place}: {name} is empty: fill it in or remove the row")
    return turns if turns[0]["role"] != "assistant" or not before else before + turns


def _messages(value: Any, role: str | None, row: Row) -> Messages:
    """Text in the style of Bai et al., text that `role` says, or a list of messages."""
    if isinstance(value, str) and _TURN.match(value):
        _, *parts = _TURN.split(value)
        spoken = zip(parts[::2], parts[1::2], strict=True)
        return [read_message(_SPEAKERS[speaker], text.strip(), row.place) for speaker, text in spoken]
    if isinstance(value, str) and role:
        return [read_message(role, value, row.place)]
    if isinstance(value, str):
        raise UserError(
            f"{row.place} has no prompt, and its answers are plain text: add a field prompt, or write them as messages"
        )
    return read_turns(value, row.place)


def _common_length(first: Messages, second: Messages) -> int:
    """How many messages both begin with; at least the last one of each is an answer."""
    same = takewhile(lambda both: both[0] == both[1], zip(first[:-1], second[:-1], strict=False))
    return sum(1 for _ in same)


def _answer(side: Messages, common: int, row: Row, name: str) -> list[Message]:
    """What follows the prompt. UserError where that is not the assistant's."""
    answer = side[common:]
    if answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in answer)
        raise UserError(
            f"{row.place}: after the common prompt {name} goes on with {roles}; expected an answer of the assistant, "
            "so make the prompts of both answers the same"
        )
    return answer


def _split_key(prompt: Messages) -> str:
    return hashlib.blake2b(json.dumps(prompt).encode(), digest_size=16).hexdigest()


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(sorted(values)) or "none"
