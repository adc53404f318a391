import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.tokenizers.gguf.keys import PREFIX
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.gguf.writing import gguf_metadata_of
from vesalius.tokenizers.sentencepiece_file import FILE, metadata_of_sentencepiece, open_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.lists(
    st.sampled_from(["def ", "self", "    ", "ﬁ", "Å", "①", "é", "\n", "🤖", "=", " "])
).map("".join)


@pytest.fixture(
    scope="module",
    params=[
        ("bpe", {}),
        ("bpe", {"add_dummy_prefix": False}),
        ("bpe", {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}),
        ("unigram", {"vocab_size": 600, "normalization_rule_name": "nmt_nfkc"}),
        ("unigram", {"vocab_size": 600, "pad_id": 3, "bos_id": -1, "eos_id": 2}),
        ("bpe", {"user_defined_symbols": ["▁▁", "def"], "add_dummy_prefix": False}),
    ],
    ids=["bpe", "no prefix", "nfkc", "unigram", "ids", "user defined"],
)
def peer(request, train_sentencepiece):
    kind, options = request.param
    return train_sentencepiece(kind, **options)


@pytest.fixture(scope="module")
def opened(peer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    (directory / FILE).write_bytes(peer.serialized_model_proto())
    return open_tokenizer(directory)


@given(text=TEXTS)
@example(text="0\x85")  # white space to Unicode, and a character like others to SentencePiece
def test_ids_are_those_of_sentencepiece(opened, peer, text):
    assume(not text or any(char.isprintable() for char in text))  # of which normalising leaves nothing, a blank remains
    assert opened.encode(text) == peer.encode(text)


def test_special_ids_are_those_of_sentencepiece(opened, peer):
    assert (opened.bos_id or -1, opened.unknown_id) == (peer.bos_id(), peer.unk_id())
    assert peer.eos_id() in opened.eos_ids
    assert opened.vocab_size == peer.vocab_size()


@pytest.fixture
def directory(train_sentencepiece, tmp_path):
    (tmp_path / FILE).write_bytes(train_sentencepiece("bpe").serialized_model_proto())
    return tmp_path


def configure(directory, **values):
    (directory / "tokenizer_config.json").write_text(json.dumps(values))


def test_tokens_that_were_added_later(directory):
    tokens = {"1": ("<s>", True), "900": ("<turn>", True), "901": ("<tool>", False)}
    entries = {number: {"content": text, "special": special} for number, (text, special) in tokens.items()}
    configure(directory, added_tokens_decoder=entries, chat_template="{{ bos_token }}", bos_token="<s>")
    tokenizer = open_tokenizer(directory)
    assert tokenizer.vocab_size == 902
    assert list(tokenizer.special_tokens) == ["<unk>", "<s>", "</s>", "<turn>"]
    assert tokenizer.encode("<tool>")[0] == 901
    assert 900 not in tokenizer.encode("<turn>")
    assert tokenizer.chat([{"role": "user", "content": "x"}]) == "<s>"


def test_tokens_that_were_added_as_older_directories_say(directory):
    (directory / "added_tokens.json").write_text(json.dumps({"<pad>": 900}))
    assert open_tokenizer(directory).special_tokens["<pad>"] == 900


@pytest.mark.parametrize(("asked", "prefix"), [(None, [1]), (True, [1]), (False, [])])
def test_a_text_starts_with_the_beginning_token_unless_told_otherwise(directory, asked, prefix):
    configure(directory, tokenizer_class="LlamaTokenizer", **({} if asked is None else {"add_bos_token": asked}))
    assert open_tokenizer(directory).prompt_prefix == prefix


def test_end_tokens_of_the_model_count(directory):
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert open_tokenizer(directory).eos_ids == (2, 5)


def test_tokenizer_json_comes_first(directory, tokenizer):
    tokenizer.save(directory)
    assert open_tokenizer(directory).fingerprint == tokenizer.fingerprint


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json in"):
        open_tokenizer(tmp_path)


def test_what_is_saved_opens_without_the_file(directory, tmp_path):
    first = open_tokenizer(directory)
    first.save(tmp_path / "saved")
    again = open_tokenizer(tmp_path / "saved")
    assert again.encode("self é🤖") == first.encode("self é🤖")
    assert (again.prompt_prefix, again.eos_ids) == (first.prompt_prefix, first.eos_ids)


def test_it_can_be_written_to_gguf(directory):
    first = open_tokenizer(directory)
    assert tokenizer_from_gguf(gguf_metadata_of(first)).encode("def é🤖") == first.encode("def é🤖")


def test_gaps_between_added_ids(directory):
    configure(directory, added_tokens_decoder={"903": {"content": "<late>", "special": True}})
    with pytest.raises(UserError, match="the added token '<late>' has id 903, expected 900"):
        open_tokenizer(directory)


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"{}"])
def test_a_file_that_is_no_model(data):
    with pytest.raises(UserError):
        tokenizer_from_gguf(metadata_of_sentencepiece(data))


@given(data=st.data())
def test_damage_is_an_error_or_another_vocabulary_and_never_a_crash(train_once, data):
    place = data.draw(st.integers(0, len(train_once) - 1))
    broken = train_once[:place] + bytes([data.draw(st.integers(0, 255))]) + train_once[place + 1 :]
    try:
        metadata = metadata_of_sentencepiece(data.draw(st.sampled_from([broken, train_once[:place]])))
    except UserError:
        return
    assert len(metadata[PREFIX + "tokens"]) == len(metadata[PREFIX + "scores"])


@pytest.fixture(scope="module")
def train_once(train_sentencepiece):
    return train_sentencepiece("bpe").serialized_model_proto()


def test_word_models_are_refused(train_sentencepiece):
    model = train_sentencepiece("word", vocab_size=300, byte_fallback=False).serialized_model_proto()
    with pytest.raises(UserError, match="only BPE and Unigram are"):
        metadata_of_sentencepiece(model)
