"""Small pairs, ratings and models that the tests of preference learning share."""

import torch

from vesalius.align.answer_rows import Layout
from vesalius.data.preference import Pair, Rating
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat_template import CHATML
from vesalius.tokenizers.tokenizer import Tokenizer

LAYOUT = Layout(rows=2, context=128, shared=True)


def make_tokenizer(chat_template: str = CHATML) -> Tokenizer:
    text = "What does the sum do? It returns the sum of the parts. user assistant system "
    return Tokenizer.from_bpe(train_bpe([text * 3], 300), chat_template)


def model_for(tokenizer: Tokenizer, *, seed: int = 0, **changes) -> Transformer:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes | changes), seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # far from uniform, so that a mistake shows
    return model


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def pair(number: int, prompt: str = "", chosen: str = "", rejected: str = "") -> Pair:
    prompt, chosen = prompt or f"What is {number}?", chosen or "It is " + "the sum of " * (number % 4) + f"{number}."
    return Pair([user(prompt)], [said(chosen)], [said(rejected or f"No {number}")], f"pair {number}", str(number))


def pairs(count: int) -> list[Pair]:
    return [pair(number) for number in range(count)]


def ratings(count: int) -> list[Rating]:
    """Two good ones and a bad one by turns."""
    found = []
    for number, one in enumerate(pairs(count)):
        good = number % 3 < 2
        found.append(Rating(one.prompt, one.chosen if good else one.rejected, good, f"rating {number}", str(number)))
    return found
