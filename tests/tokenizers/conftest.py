import inspect
import json
import re
import textwrap

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from vesalius.tokenizers import tokenizer as ours
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.pretokenize import PATTERN, to_printable


@pytest.fixture(scope="session")
def documents():
    """A little real text: code, prose, and other scripts."""
    foreign = ["Grüße, 世界! Привет, мир. 🤖🎉 naïve café — 12345 ± 0.5", "שלום עולם مرحبا 한국어 ไทย हिन्दी"]
    return [inspect.getsource(module) for module in (json.decoder, json.encoder, re, textwrap)] + foreign


@pytest.fixture(scope="session")
def bpe(documents):
    return train_bpe(documents, 700)


@pytest.fixture(scope="session")
def tokenizer(bpe):
    return ours.Tokenizer.from_bpe(bpe)


@pytest.fixture(scope="session")
def hf_train():
    """Training by Hugging Face: (documents, size, special tokens) -> (merges, vocabulary) in printable characters."""

    def train(documents, vocab_size, special_tokens):
        peer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        peer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(special_tokens),
            show_progress=False,
        )
        peer.train_from_iterator(documents, trainer)
        return [tuple(merge) for merge in json.loads(peer.to_str())["model"]["merges"]], peer.get_vocab()

    return train


@pytest.fixture(scope="session")
def printable():
    """Our trained model in the same form as `hf_train` gives."""

    def convert(bpe):
        vocab = {to_printable(token): number for token, number in bpe.vocab.items()}
        return [(to_printable(left), to_printable(right)) for left, right in bpe.merges], vocab | bpe.special_tokens

    return convert
