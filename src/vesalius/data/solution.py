"""What process reward models are made of: answers in steps, each of which somebody judged."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Solution:
    """An answer in steps to one prompt.

    prompt     what was said before, ending where the assistant is to speak; messages as in Conversation
    steps      the answer, a text for each step
    labels     whether each step is right
    name       where it comes from, in words that help a person to find it ("steps.jsonl:17")
    split_key  what decides between training and validation (split.py): solutions of one prompt stay together
    """

    prompt: list[dict[str, str]]
    steps: tuple[str, ...]
    labels: tuple[bool, ...]
    name: str
    split_key: str
