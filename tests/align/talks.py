"""Small conversations, a tokenizer and models that the tests of tuning and distillation share."""

import torch

from vesalius.align.encoding import Encoded, encode_conversations
from vesalius.data.conversation import Conversation
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat_template import CHATML
from vesalius.tokenizers.tokenizer import Tokenizer

CONTEXT = 96


def make_tokenizer(chat_template: str = CHATML) -> Tokenizer:
    text = "What does the sum do? It returns the sum of the parts. user assistant system "
    return Tokenizer.from_bpe(train_bpe([text * 3], 300), chat_template)


def talk(number: int, answer: str = "", *, system: str = "", origin: str = "") -> Conversation:
    messages = [{"role": "system", "content": system}] if system else []
    answer = answer or "It is " + "the sum of " * (number % 5) + f"{number}."
    messages += [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": answer}]
    return Conversation(messages, f"{origin or 'talks'}:{number}", str(number), origin)


def talks(count: int, *, first: int = 0, origin: str = "") -> list[Conversation]:
    return [talk(number, origin=origin) for number in range(first, first + count)]


def encoded_talks(tokenizer: Tokenizer, count: int = 30) -> Encoded:
    return encode_conversations(talks(count), tokenizer, CONTEXT)


def model_for(tokenizer: Tokenizer, *, seed: int = 0, **changes) -> Transformer:
    """Far from uniform, so that a mistake shows."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes | changes), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model
