"""`questions:python`: questions and answers about the standard library, made from signatures and docstrings.

Supervised tuning needs conversations, and without a network there are none to be had; what a library says about itself
is the next best thing: the answers are true, short, and checkable by the reader. Each member gives up to four
conversations (what it does, how it is called, where it is, which member does this), a quarter of them of two turns.
The wordings are chosen by hashing the member's name, so they are the same in every run and on every machine.

A conversation has the split key of the module it is about, which the module's source has too: a validation module
is unseen in pretraining and in tuning.

Left out: private and dunder names, and members whose docstring has no clean first sentence (docstring_sentences.py).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vesalius.data.conversation import Conversation
from vesalius.data.docstring_sentences import as_statement, first_sentence
from vesalius.data.docstrings import Member
from vesalius.data.python_corpus import python_members

MOST_PARAMETERS, LONGEST_CALL = 9, 120
"""A list of more parameters, or a call of more characters, is nothing that a person would say."""

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PURPOSE = {
    "function": (
        "What does `{name}` do?", "What does `{name}` do in Python?",
        "What is `{name}` for?", "Tell me what `{name}` does.",
    ),
    "class": (
        "What is `{name}`?", "What is `{name}` in Python?", "What is the class `{name}`?", "Tell me what `{name}` is.",
    ),
    "property": ("What is `{name}`?", "What is the property `{name}`?", "Tell me what `{name}` is."),
    "module": (
        "What is the module `{name}`?", "What is the module `{name}` for?", "Tell me about the module `{name}`.",
    ),
}  # fmt: skip
_PARAMETERS = (
    "What are the parameters of `{name}`?", "Which parameters does `{name}` take?",
    "List the parameters of `{name}`.", "What arguments does `{name}` take?",
)  # fmt: skip
_CALL = (
    "Write the signature of `{name}`.", "What is the signature of `{name}`?",
    "How do I call `{name}`?", "Show me how `{name}` is called.",
)  # fmt: skip
_HOME = ("Which module has `{name}`?", "Which module is `{name}` in?", "Where do I find `{name}`?")
_THEN_PARAMETERS = ("And its parameters?", "What are its parameters?", "Which parameters does it take?")
_THEN_PURPOSE = ("What does it do?", "And what does it do?", "What is it for?")
_THEN_CALL = ("How is it called?", "And its signature?", "Show me its signature.")

T = TypeVar("T")
Turns = list[tuple[str, str]]
"""Questions with their answers."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A member that can be talked about: its name as a person writes it, and a sentence on what it does or is."""

    member: Member
    name: str
    statement: str

    @property
    def owner(self) -> str:
        """The module or class that has it: "json" for "json.dumps", "" for a module and for what is built in."""
        return self.name.rpartition(".")[0] if self.member.qualname else ""

    @property
    def short_name(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]


def python_conversations() -> Iterator[Conversation]:
    """All conversations about the running interpreter's library, in the order of its members; always the same."""
    yield from conversations_about(python_members())


def python_topics(members: Iterable[Member]) -> Iterator[Topic]:
    """The public members whose docstring begins with a clean sentence, in order."""
    for member in members:
        name = member.name.removeprefix("builtins.")
        if not any(part.startswith("_") for part in name.split(".")) and (sentence := first_sentence(member.docstring)):
            yield Topic(member, name, as_statement(sentence))


def conversations_about(members: Iterable[Member]) -> Iterator[Conversation]:
    """The conversations about these members. What names more than one of them is not asked for."""
    topics = list(python_topics(members))
    homes = Counter(topic.short_name for topic in topics if _is_top_level(topic))
    deeds = Counter((topic.owner, topic.statement) for topic in topics)
    for topic in topics:
        yield _conversation(topic, "purpose", _ask_purpose(topic))
        if _parameters_answer(topic) and _call_answer(topic):
            yield _conversation(topic, "call", _ask_call(topic))
        if _is_top_level(topic) and topic.owner and homes[topic.short_name] == 1:
            yield _conversation(topic, "home", _ask_home(topic))
        if _is_deed(topic) and deeds[topic.owner, topic.statement] == 1:
            yield _conversation(topic, "search", _ask_search(topic))


def purpose_question(topic: Topic) -> str:
    """The plainest way to ask what the topic does or is; evaluations ask with these words."""
    return _purpose_wordings(topic)[0].format(name=topic.name)


def _ask_purpose(topic: Topic) -> Turns:
    turns = [(_worded(_purpose_wordings(topic), topic, "purpose"), _purpose_answer(topic))]
    answer = _parameters_answer(topic)
    if answer and _choose(range(4), topic, "two turns") == 0:
        turns.append((_worded(_THEN_PARAMETERS, topic, "purpose then"), answer))
    return turns


def _ask_call(topic: Topic) -> Turns:
    if _choose(range(2), topic, "call kind") == 0:
        return [(_worded(_CALL, topic, "call"), _call_answer(topic))]
    return [(_worded(_PARAMETERS, topic, "parameters"), _parameters_answer(topic))]


def _ask_home(topic: Topic) -> Turns:
    kind, short, module = _choose(range(4), topic, "home kind"), topic.short_name, topic.member.module
    if kind == 0:
        return [(f"How do I import `{short}`?", f"`from {module} import {short}`")]
    question = _choose(_HOME, topic, "home").format(name=short)
    turns = [(question, f"`{short}` is in the module `{module}`.")]
    if kind == 1:
        turns.append((_worded(_THEN_PURPOSE, topic, "home then"), topic.statement))
    return turns


def _ask_search(topic: Topic) -> Turns:
    deed = topic.statement.removeprefix("It ").removesuffix(".")
    place = f" of `{topic.owner}`" if topic.owner else ""
    turns = [(f"Which {topic.member.kind}{place} {deed}?", f"`{topic.name}` does.")]
    if (answer := _call_answer(topic)) and _choose(range(4), topic, "search kind") == 0:
        turns.append((_worded(_THEN_CALL, topic, "search then"), answer))
    return turns


def _purpose_answer(topic: Topic) -> str:
    """The statement; a class whose statement does not say what it is gets a sentence that does."""
    if topic.member.kind == "class" and topic.owner and not topic.statement.startswith("It "):
        return f"It is a class of `{topic.owner}`. {topic.statement}"
    return topic.statement


def _parameters_answer(topic: Topic) -> str:
    """ "It takes two parameters: `a` and `*p`."; "" where the parameters are unknown or too many to say."""
    names = [f"`{parameter.name}`" for parameter in topic.member.parameters]
    if topic.member.signature is None or len(names) > MOST_PARAMETERS:
        return ""
    if not names:
        return "It takes no parameters."
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return f"It takes {_NUMBERS[len(names)]} parameter{'s' * (len(names) > 1)}: {listed}."


def _call_answer(topic: Topic) -> str:
    """The signature as code; "" where it is unknown or too long to say."""
    call = f"`{topic.name}{topic.member.signature}`"
    return call if topic.member.signature is not None and len(call) <= LONGEST_CALL else ""


def _is_top_level(topic: Topic) -> bool:
    return topic.member.qualname == topic.short_name and topic.member.kind in ("function", "class")


def _is_deed(topic: Topic) -> bool:
    """Whether "which function …?" can be asked with the statement's own words."""
    does = topic.statement.startswith("It ") and not topic.statement.startswith("It is ") and ";" not in topic.statement
    return does and topic.member.kind in ("function", "method")


def _purpose_wordings(topic: Topic) -> tuple[str, ...]:
    return _PURPOSE["function" if topic.member.kind == "method" else topic.member.kind]


def _worded(wordings: Sequence[str], topic: Topic, occasion: str) -> str:
    return _choose(wordings, topic, occasion).format(name=topic.name)


def _choose(options: Sequence[T], topic: Topic, occasion: str) -> T:
    """One of the options, decided by the member's name and the occasion alone."""
    digest = hashlib.blake2b(f"{topic.member.name}|{occasion}".encode(), digest_size=8).digest()
    return options[int.from_bytes(digest, "big") % len(options)]


def _conversation(topic: Topic, about: str, turns: Turns) -> Conversation:
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    return Conversation(messages, f"{topic.member.name}#{about}", topic.member.split_key)
