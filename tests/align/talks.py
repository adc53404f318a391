"""Small conversations that the tests of tuning and distillation share."""

from vesalius.align.rows.encoding import Encoded, encode_conversations
from vesalius.data.conversation import Conversation
from vesalius.tokenizers.tokenizer import Tokenizer

CONTEXT = 96


def talk(number: int, answer: str = "", *, system: str = "", origin: str = "") -> Conversation:
    messages = [{"role": "system", "content": system}] if system else []
    answer = answer or "It is " + "the sum of " * (number % 5) + f"{number}."
    messages += [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": answer}]
    return Conversation(messages, f"{origin or 'talks'}:{number}", str(number), origin)


def talks(count: int, *, first: int = 0, origin: str = "") -> list[Conversation]:
    return [talk(number, origin=origin) for number in range(first, first + count)]


def encoded_talks(tokenizer: Tokenizer, count: int = 30) -> Encoded:
    return encode_conversations(talks(count), tokenizer, CONTEXT)
