"""The same ids as llama.cpp, where its Python package is installed (it is no dependency: building it takes minutes)."""

import random

import pytest

from vesalius.hub.gguf.writer import write_gguf
from vesalius.tokenizers.gguf.keys import PREFIX
from vesalius.tokenizers.gguf.pretokenizers import PRETOKENIZERS
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.gguf.writing import gguf_metadata_of

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

PARTS = [*"abc ABC'sdt  \n\t\r0123½.,!?<|>#/é世ひカ한🤖\u00a0ЖΩ()$~`", "'ll", "HTTPServer", "12345", "   ", "\n\n"]
EVIL = ["<|im_end|>", "<s>", "</s>", "<unk>"]


@pytest.fixture(scope="module")
def texts(documents):
    random.seed(0)
    return [*documents, *("".join(random.choices(PARTS + EVIL, k=random.randint(1, 30))) for _ in range(200))]


@pytest.fixture
def ids_of(tmp_path):
    """What llama.cpp makes of texts with the tokenizer in this metadata."""

    def encode(metadata, texts, special):
        write_gguf(tmp_path / "a.gguf", {"general.architecture": "llama", **metadata}, {})
        model = llama_cpp.Llama(str(tmp_path / "a.gguf"), vocab_only=True, verbose=False)
        ids = [model.tokenize(text.encode(), add_bos=False, special=special) for text in texts]
        model.close()
        return ids

    return encode


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_every_pre_tokenizer(tokenizer, texts, ids_of, name):
    metadata = gguf_metadata_of(tokenizer) | {PREFIX + "pre": name}
    ours = tokenizer_from_gguf(metadata)
    assert [ours.encode(text) for text in texts] == ids_of(metadata, texts, special=False)


@pytest.mark.parametrize("special", [False, True])
def test_ours_as_we_write_it(tokenizer, texts, ids_of, special):
    ours = [tokenizer.encode(text, allow_special=special) for text in texts]
    assert ours == ids_of(gguf_metadata_of(tokenizer), texts, special)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("blank", [False, True])
def test_sentencepiece_as_converters_and_we_write_it(train_sentencepiece, gguf_of, texts, ids_of, special, blank):
    metadata = gguf_of(train_sentencepiece("bpe"), "llama", add_space_prefix=blank)
    tokenizer = tokenizer_from_gguf(metadata)
    ours = [tokenizer.encode(text, allow_special=special) for text in texts]
    assert ours == ids_of(metadata, texts, special)
    assert ours == ids_of(gguf_metadata_of(tokenizer), texts, special)
