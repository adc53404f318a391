"""A system message that the chat template has no place for is told, once, before anything is learned: some templates
leave it out without a word, and the model would learn to answer as if nobody had given it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from vesalius.core.errors import UserError
from vesalius.data.messages import Message
from vesalius.tokenizers.tokenizer import Tokenizer

T = TypeVar("T")

_PROBE = "Speak only of owls."


def with_their_system(
    asked: Iterable[T], tokenizer: Tokenizer, named: Callable[[T], tuple[str, list[Message]]]
) -> Iterator[T]:
    """All that is asked, as it comes; `named` gives its name and its messages. UserError at the first system message
    where the template refuses one or leaves it out."""
    probed = False
    for each in asked:
        name, messages = named(each)
        if not probed and any(message["role"] == "system" for message in messages):
            _probe(tokenizer, name)
            probed = True
        yield each


def _probe(tokenizer: Tokenizer, name: str) -> None:
    messages = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "Hi"}]
    try:
        text = tokenizer.chat(messages)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if _PROBE not in text:
        raise UserError(
            f"{name} has a system message, for which this model's chat template has no place: put it into the first "
            "user message, or take a model whose template has one"
        )
