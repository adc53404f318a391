"""A tokenizer of a few words and models for it, which the tests of all methods share."""

import torch

from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.chat_template import CHATML
from vesalius.tokenizers.tokenizer import Tokenizer


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
