import inspect
import io
import json
import re
import textwrap

import pytest
import sentencepiece
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from vesalius.tokenizers import tokenizer as ours
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.gguf.keys import BYTE, CONTROL, NORMAL, PREFIX, UNKNOWN, UNUSED, USER_DEFINED
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


@pytest.fixture(scope="session")
def train_sentencepiece(documents):
    """SentencePiece's own training: (kind, options) -> the library's processor."""

    def train(kind, **options):
        blanks = ["    x = 1", "        yield", "====", "========"] * 20
        file = io.BytesIO()
        usual = {"vocab_size": 900, "byte_fallback": True, "character_coverage": 0.98}
        usual |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line for text in documents for line in text.split("\n")] + blanks),
            model_writer=file,
            model_type=kind,
            minloglevel=2,
            **{**usual, **options},
        )
        return sentencepiece.SentencePieceProcessor(model_proto=file.getvalue())

    return train


@pytest.fixture(scope="session")
def gguf_of():
    """The metadata of a GGUF file with a SentencePiece vocabulary, as converters write it."""

    def convert(peer, model, user_defined=(), **keys):
        numbers = range(peer.vocab_size())
        pieces = [peer.id_to_piece(number) for number in numbers]
        tests = {UNKNOWN: peer.is_unknown, CONTROL: peer.is_control, UNUSED: peer.is_unused, BYTE: peer.is_byte}
        types = [next((kind for kind, test in tests.items() if test(number)), NORMAL) for number in numbers]
        for piece in user_defined:
            types[peer.piece_to_id(piece)] = USER_DEFINED
            pieces[peer.piece_to_id(piece)] = piece.replace("▁", " ")
        values = {
            "model": model,
            "tokens": pieces,
            "token_type": types,
            "scores": [peer.get_score(number) for number in numbers],
            "bos_token_id": peer.bos_id(),
            "eos_token_id": peer.eos_id(),
            "unknown_token_id": peer.unk_id(),
        }
        return {PREFIX + name: value for name, value in {**values, **keys}.items()}

    return convert
