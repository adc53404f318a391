import pytest
import sentencepiece
from hypothesis import assume, given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.kinds import train_tokenizer
from vesalius.tokenizers.sentencepiece_file import FILE, metadata_of_sentencepiece, open_tokenizer
from vesalius.tokenizers.sentencepiece_writing import save_sentencepiece, sentencepiece_of_metadata
from vesalius.tokenizers.tokenizer import Tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), max_size=40) | st.lists(
    st.sampled_from(["def ", "self", "    ", "ﬁ", "é", "\n", "🤖", "=", " ", "<s>", "<|im_end|>", "<0x41>", "<unk>"])
).map("".join)


@pytest.fixture(scope="module", params=["unigram", "char"])
def trained(request, documents):
    return train_tokenizer(request.param, documents, 700)


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_sentencepiece(directory / FILE, trained)
    return directory


@pytest.fixture(scope="module")
def library(written):
    return sentencepiece.SentencePieceProcessor(model_file=str(written / FILE))


@given(text=TEXTS)
def test_the_library_gives_our_ids_and_our_text(trained, library, text):
    ids = trained.encode(text)
    assert library.encode(text) == ids
    assert library.decode(ids) == text


def test_long_texts_have_the_same_ids_there(trained, library, documents):
    for text in documents:
        assert library.encode(text) == trained.encode(text)


@given(text=TEXTS)
def test_what_was_written_opens_with_the_same_ids(trained, reopened, text):
    assert reopened.encode(text) == trained.encode(text)


@pytest.fixture(scope="module")
def reopened(written):
    return open_tokenizer(written)


def test_special_ids(trained, library, reopened):
    assert (library.unk_id(), library.bos_id(), library.eos_id(), library.pad_id()) == (3, 0, 2, 0)
    assert [library.is_control(token) for token in range(4)] == [True, True, True, False]
    assert library.vocab_size() == trained.vocab_size
    assert (reopened.bos_id, reopened.unknown_id, reopened.eos_ids) == (0, 3, (0, 2))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bpe", {}),
        ("bpe", {"user_defined_symbols": ["▁▁", "def"], "add_dummy_prefix": False}),
        ("unigram", {"vocab_size": 600, "normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}),
        ("unigram", {"vocab_size": 340, "byte_fallback": False, "bos_id": -1, "pad_id": 0, "unk_id": 3}),
    ],
    ids=["bpe", "user defined", "nfkc", "no bytes"],
)
def test_a_file_of_the_library_is_written_again_as_it_was(train_sentencepiece, kind, options):
    first = train_sentencepiece(kind, **options)
    again = sentencepiece.SentencePieceProcessor(
        model_proto=sentencepiece_of_metadata(metadata_of_sentencepiece(first.serialized_model_proto()))
    )
    numbers = range(first.vocab_size())
    for what in ("id_to_piece", "get_score", "is_unknown", "is_control", "is_byte", "is_unused"):
        assert [getattr(again, what)(n) for n in numbers] == [getattr(first, what)(n) for n in numbers]
    for text in ("def self(x):\n    return  é 🤖", "", "  ﬁ  ", "<s>"):
        assert again.encode(text) == first.encode(text)
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(again, name)() == getattr(first, name)()


@given(text=TEXTS)
def test_a_vocabulary_that_came_from_gguf(from_gguf, text):
    ours, library = from_gguf
    assume(not any(token in text for token in ours.special_tokens))
    assert library.encode(text) == ours.encode(text)


@pytest.fixture(scope="module")
def from_gguf(train_sentencepiece, gguf_of, tmp_path_factory):
    ours = tokenizer_from_gguf(gguf_of(train_sentencepiece("bpe"), "llama"))
    path = tmp_path_factory.mktemp("gguf") / FILE
    save_sentencepiece(path, ours)
    return ours, sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_byte_level_vocabularies_are_refused(documents, tmp_path):
    with pytest.raises(UserError, match="SentencePiece has no byte-level vocabularies"):
        save_sentencepiece(tmp_path / FILE, Tokenizer.from_bpe(train_bpe(documents, 300)))
    assert not (tmp_path / FILE).exists()
