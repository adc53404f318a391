"""What preference learning is made of: `preferences` reads these, the batch sources of `align` eat them."""

from dataclasses import dataclass

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, the better one and the worse one.

    prompt     what was said before, ending where the assistant is to speak; messages as in Conversation
    chosen     the better answer: an assistant's message, and where the dialogue goes on, what follows
    rejected   the worse answer, likewise
    name       where it comes from, in words that help a person to find it ("pairs.jsonl:17")
    split_key  what decides between training and validation (split.py): pairs of one prompt stay together
    margin     by how much the chosen answer should be better, where somebody said so: only reward models ask for it
    """

    prompt: Messages
    chosen: Messages
    rejected: Messages
    name: str
    split_key: str
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Rating:
    """One answer to one prompt, and whether it is a good one. The other fields are those of Pair."""

    prompt: Messages
    answer: Messages
    desirable: bool
    name: str
    split_key: str


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """One answer to one prompt, and how good it is as a number. The other fields are those of Pair."""

    prompt: Messages
    answer: Messages
    score: float
    name: str
    split_key: str
