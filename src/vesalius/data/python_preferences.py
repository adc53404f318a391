"""`pairs:python`: preference pairs about the standard library, made from the conversations of `questions:python`.

The chosen answer is the last one of a conversation, and true. The rejected one is such as a half-trained model writes,
of a kind decided by hashing the conversation's name and the seed (the first two are three times as frequent):

    another's   the answer of the same form to a question about another member of the same module
    wrong       the same sentence with a fact changed: a parameter lost, another module, the opposite verb
    broken off  the first words of the answer, ended in the middle
    vague       words that are never false and never of use

A kind that has nothing to change gives way to another. Nothing is taken from another module, and a pair has its
module's split key: what is said about a held-out module is unseen in training, in the rejected answers too.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from vesalius.data.conversation import Conversation
from vesalius.data.preference import Pair
from vesalius.data.python_questions import python_conversations

_OPPOSITES = {
    "returns": "sets", "sets": "returns", "creates": "deletes", "gets": "sets", "converts": "compares",
    "reads": "writes", "writes": "reads", "adds": "removes", "removes": "adds", "deletes": "creates",
    "parses": "prints", "prints": "parses", "sends": "receives", "receives": "sends", "tests": "changes",
    "checks": "changes", "opens": "closes", "closes": "opens", "encodes": "decodes", "decodes": "encodes",
    "finds": "replaces", "inserts": "removes", "registers": "removes", "copies": "moves", "clears": "fills",
    "makes": "deletes", "is": "is not",
}  # fmt: skip
_COUNTS = ("no parameters", "one parameter", "two parameters", "three parameters", "four parameters")
_SHORTEST_TO_BREAK = 6
"""Words; fewer say too little to be broken off."""

_VAGUE = ("It depends.", "It does what its name says.", "It is part of Python.", "See the documentation.")
_KINDS = (*["another's"] * 3, *["wrong"] * 3, "broken off", "vague")
_NAME = re.compile(r"`[^`]*`")
_CALL = re.compile(r"`(?P<name>[\w.]+)\((?P<parameters>[^()]*)\)`")


def python_pairs(seed: int = 0) -> Iterator[Pair]:
    """One pair for each conversation, in order; always the same for a seed."""
    yield from pairs_from(list(python_conversations()), seed)


def pairs_from(conversations: Iterable[Conversation], seed: int) -> Iterator[Pair]:
    """The pairs made from conversations, whose split keys are their modules."""
    conversations = list(conversations)
    siblings: dict[tuple[str, str], list[str]] = defaultdict(list)
    for conversation in conversations:
        answer = _last(conversation)
        siblings[conversation.split_key, _form(answer)].append(answer)
    for conversation in conversations:
        answer = _last(conversation)
        others = siblings[conversation.split_key, _form(answer)]
        worse = _worse(answer, others, _number(f"{conversation.name}|{seed}"))
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (answer, worse))
        yield Pair(conversation.messages[:-1], chosen, rejected, conversation.name, conversation.split_key)


def _worse(answer: str, others: list[str], number: int) -> str:
    """The first kind is chosen by the number; the rest of it chooses within the kind."""
    number, first = divmod(number, len(_KINDS))
    candidates = {
        "another's": _another(answer, others, number),
        "wrong": _wrong(answer),
        "broken off": _broken_off(answer, number),
        "vague": _VAGUE[number % len(_VAGUE)],
    }
    return next(candidates[kind] for kind in (_KINDS[first], "another's", "wrong", "vague") if candidates[kind])


def _another(answer: str, others: list[str], number: int) -> str:
    """The first of the others that differs, from a place on that the number chooses; "" where none does."""
    places = (others[(number + step) % len(others)] for step in range(len(others)))
    return next((other for other in places if other != answer), "")


def _wrong(answer: str) -> str:
    """The answer with one fact changed, by its form."""
    if answer.startswith("It takes "):
        return _other_parameters(answer)
    if call := _CALL.fullmatch(answer):
        return _other_call(call)
    if " is in the module " in answer:
        subject, _, module = answer.partition(" is in the module ")
        return "" if module == "`builtins`." else f"{subject} is in the module `builtins`."
    subject, verb, *rest = [*answer.split(" ", 2), ""]
    return f"{subject} {_OPPOSITES[verb]} {rest[0]}" if subject == "It" and verb in _OPPOSITES else ""


def _other_parameters(answer: str) -> str:
    """ "It takes one parameter: `a`." without its last parameter; "" where it has more than can be counted."""
    names = _NAME.findall(answer)
    if not names:
        return "It takes one parameter: `self`."
    if len(names) > len(_COUNTS) or len(names) == 1:
        return "It takes no parameters."
    listed = " and ".join(filter(None, [", ".join(names[:-2]), names[-2]]))
    return f"It takes {_COUNTS[len(names) - 1]}: {listed}."


def _other_call(call: re.Match[str]) -> str:
    """The signature without its first parameter, or with one that it does not have."""
    _, comma, rest = call["parameters"].partition(", ")
    return f"`{call['name']}({rest if comma else '' if call['parameters'] else 'self'})`"


def _broken_off(answer: str, number: int) -> str:
    words = answer.split()
    return " ".join(words[: 2 + number % (len(words) // 2)]) if len(words) >= _SHORTEST_TO_BREAK else ""


def _form(answer: str) -> str:
    """What answers of one kind have in common: their words outside of names, as far as they are always the same."""
    for form in ("It takes ", "is in the module", "import", "` does."):
        if form in answer:
            return form
    return "call" if _CALL.fullmatch(answer) else "statement"


def _last(conversation: Conversation) -> str:
    return conversation.messages[-1]["content"]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
