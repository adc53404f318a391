"""What can be solved and checked: readers of tasks yield these, the rewards of `align/rewards` judge answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["number", "exact", "json", "python"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a function: what it is called with, and what it has to give. Plain data both."""

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A question whose answer a program can check.

    messages   the prompt, as the chat template takes it
    kind       how an answer is checked: number, exact (a text), json (by a schema), python (by running it)
    name       where it comes from, in words that help a person to find it ("tasks.jsonl:17")
    split_key  what decides between training and validation (see split.py)
    answer     of a number or an exact text: the right one
    schema     of json: the JSON Schema that the answer has to fit
    function   of python: the name of the function that the answer defines,
    cases      and its tests. Those that the prompt shows are not among them.
    """

    messages: list[dict[str, str]]
    kind: Kind
    name: str
    split_key: str
    answer: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)
    function: str = ""
    cases: tuple[Case, ...] = ()

    @property
    def prompt(self) -> str:
        """The last thing that was asked."""
        return self.messages[-1]["content"]
