import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vesalius.core.errors import UserError
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.gguf.writing import gguf_metadata_of
from vesalius.tokenizers.kinds import train_tokenizer
from vesalius.tokenizers.normalizers import normalize
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.tokenizers.unigram.training import train_unigram
from vesalius.tokenizers.untrained import byte_vocabulary, learn_characters
from vesalius.tokenizers.wordpiece.training import train_wordpiece

SIZES = {"bpe": 700, "unigram": 700, "char": 500, "byte": 259}
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=40)
SPECIALS = st.lists(
    st.sampled_from(["<|im_end|>", "<unk>", "<0x41>", "self", "  ", "<|", "\n", "é", "🤖", " "]), max_size=12
).map("".join)
TEXTS = ANY | SPECIALS


@pytest.fixture(scope="module")
def by_hand(documents, bpe):
    return {
        "bpe": bpe,
        "unigram": train_unigram(documents, SIZES["unigram"]),
        "char": learn_characters(documents, SIZES["char"]),
        "byte": byte_vocabulary(),
    }


@pytest.fixture(scope="module")
def trained(documents):
    return {kind: train_tokenizer(kind, documents, size) for kind, size in SIZES.items()}


@pytest.fixture(scope="module", params=sorted(SIZES))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def directory(trained, kind, tmp_path_factory):
    directory = tmp_path_factory.mktemp(kind)
    trained[kind].save(directory)
    return directory


@pytest.fixture(scope="module")
def opened(directory):
    """What the library, transformers and Vesalius make of the saved files."""
    library = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    library.encode_special_tokens = True
    return library, AutoTokenizer.from_pretrained(directory), Tokenizer.open(directory)


@given(text=TEXTS)
def test_ids_are_those_of_the_encoder_by_hand(trained, by_hand, kind, text):
    assert trained[kind].encode(text) == by_hand[kind].encode(text)


@given(text=TEXTS)
def test_text_comes_back_and_its_bytes_are_those_of_its_tokens(trained, by_hand, kind, text):
    ids = trained[kind].encode(text)
    assert trained[kind].decode(ids) == text
    assert b"".join(map(trained[kind].token_bytes, ids)) == text.encode() == by_hand[kind].decode(ids)


@given(text=TEXTS)
def test_what_is_saved_gives_the_same_ids_everywhere(trained, kind, opened, text):
    library, transformers, ours = opened
    expected = trained[kind].encode(text)
    assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids == expected
    if not any(token in text for token in trained[kind].special_tokens):
        assert transformers.encode(text, add_special_tokens=False) == expected
        assert transformers.decode(expected) == text


def test_a_text_begins_with_the_document_boundary(trained, kind, opened):
    _, transformers, ours = opened
    assert ours.prompt_prefix == [0] == [ours.document_boundary]
    assert transformers("self")["input_ids"] == [0, *ours.encode("self")]


def test_what_the_special_tokens_are_for(trained, kind):
    tokenizer = trained[kind]
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, (0, 2))
    assert tokenizer.vocab_size <= SIZES[kind]
    assert tokenizer.encode("<|im_end|>", allow_special=True) == [2]


@given(text=TEXTS)
def test_a_gguf_file_gives_the_same_ids(trained, gguf_copy, kind, text):
    assert gguf_copy.encode(text) == trained[kind].encode(text)


@pytest.fixture(scope="module")
def gguf_copy(trained, kind):
    return tokenizer_from_gguf(gguf_metadata_of(trained[kind]))


def test_progress_ends_with_all_tokens(documents, kind):
    told = []
    train_tokenizer(kind, documents, SIZES[kind], told.append)
    assert told == sorted(told)
    assert told[-1] == SIZES[kind]


@given(text=TEXTS)
def test_wordpiece_gives_the_ids_of_the_encoder_by_hand_wherever_it_is_opened(wordpiece, text):
    by_hand, trained, opened, transformers = wordpiece
    ids = trained.encode(text)
    assert opened.encode(text) == ids
    if not any(token in text for token in trained.special_tokens):
        assert ids == by_hand.encode(text) == transformers.encode(text, add_special_tokens=False)


@pytest.fixture(scope="module")
def wordpiece(documents, tmp_path_factory):
    directory = tmp_path_factory.mktemp("wordpiece")
    trained = train_tokenizer("wordpiece", documents, 700)
    trained.save(directory)
    opened, transformers = Tokenizer.open(directory), AutoTokenizer.from_pretrained(directory)
    return train_wordpiece(documents, 700), trained, opened, transformers


@given(text=TEXTS)
def test_a_text_goes_through_the_normalizers_first(normalizing, text):
    plain, trained = normalizing
    assert trained.encode(text) == plain.encode(normalize(text, ["nfkd", "strip_accents", "lowercase"]))


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def normalizing(request, documents):
    names = ["nfkd", "strip_accents", "lowercase"]
    plain = train_tokenizer(request.param, [normalize(text, names) for text in documents], 700)
    return plain, train_tokenizer(request.param, documents, 700, normalizers=names)


def test_an_unknown_kind():
    with pytest.raises(UserError, match="unknown kind of tokenizer 'unigam': did you mean 'unigram'"):
        train_tokenizer("unigam", [], 300)


def test_a_tokenizer_of_bytes_has_one_size():
    with pytest.raises(UserError, match="vocab_size is 4096, a tokenizer of bytes has 259: leave vocab_size out"):
        train_tokenizer("byte", [], 4096)
