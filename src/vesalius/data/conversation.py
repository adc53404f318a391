"""What instruction tuning is made of: readers of conversations yield these, the batch sources of `align` eat them."""

from dataclasses import dataclass

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A dialogue whose assistant turns are to be learned.

    messages   {"role": …, "content": …} in the order in which they were said, as the chat template takes them
    name       where it comes from, in words that help a person to find it ("chats.jsonl:17")
    split_key  what decides between training and validation (see split.py): conversations with one key stay together
    origin     the name by which somebody gave the data that it is from: a file, a glob, "questions:python"
    """

    messages: list[dict[str, str]]
    name: str
    split_key: str
    origin: str = ""
