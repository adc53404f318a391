import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vesalius.core.errors import UserError
from vesalius.tokenizers.gguf.keys import CONTROL, NORMAL, PREFIX, USER_DEFINED
from vesalius.tokenizers.gguf.reading import tokenizer_from_gguf
from vesalius.tokenizers.gguf.writing import gguf_metadata_of
from vesalius.tokenizers.pretokenize import to_printable
from vesalius.tokenizers.tokenizer import Tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(["<|im_end|>", "<tool>", "def ", "\n    ", "é", "12345", "'ll", " "])
).map("".join)


@pytest.fixture(scope="module")
def metadata(bpe):
    """A byte-level vocabulary, written out by hand: with an added token that is not special, and a row that pads it."""
    tokens = {token: to_printable(piece) for piece, token in bpe.vocab.items()}
    tokens |= {token: text for text, token in bpe.special_tokens.items()}
    texts = [tokens[number] for number in range(700)]
    values = {
        "model": "gpt2",
        "pre": "smaug-bpe",
        "tokens": [*texts, "<tool>", "[PAD701]"],
        "token_type": [CONTROL] * 3 + [NORMAL] * 697 + [USER_DEFINED, 5],
        "merges": [f"{to_printable(left)} {to_printable(right)}" for left, right in bpe.merges],
        "bos_token_id": 0,
        "eos_token_id": 2,
        "padding_token_id": 0,
    }
    return {PREFIX + name: value for name, value in values.items()} | {"tokenizer.chat_template": "{{ messages }}"}


def without(metadata, *names):
    return {key: value for key, value in metadata.items() if key.removeprefix(PREFIX) not in names}


def with_(metadata, **values):
    return metadata | {PREFIX + name: value for name, value in values.items()}


@given(text=TEXTS)
def test_ids_are_those_of_encoding_by_hand(metadata, bpe, text):
    expected = [ids for part in text.split("<tool>") for ids in ([700], bpe.encode(part))][1:]
    assert tokenizer_from_gguf_once(metadata).encode(text) == [token for ids in expected for token in ids]


def tokenizer_from_gguf_once(metadata, made={}):  # noqa: B006  a hundred examples, one tokenizer
    return made.setdefault(id(metadata), tokenizer_from_gguf(metadata))


def test_what_the_keys_name(metadata):
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.vocab_size == 702
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, (0, 2))
    assert tokenizer.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.decode([1, 700]) == "<|im_start|><tool>"
    assert tokenizer.token_bytes(700) == b"<tool>"


def test_arrays_may_be_numpys(metadata):
    arrays = with_(metadata, token_type=np.array(metadata[PREFIX + "token_type"], dtype=np.int32))
    assert tokenizer_from_gguf(arrays).fingerprint == tokenizer_from_gguf(metadata).fingerprint


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [
        ({}, []),
        ({"add_bos_token": True}, [0]),
        ({"pre": "llama-bpe"}, [0]),
        ({"pre": "llama-bpe", "add_bos_token": False}, []),
    ],
)
def test_whether_a_text_starts_with_the_beginning_token(metadata, changes, prefix):
    assert tokenizer_from_gguf(with_(metadata, **changes)).prompt_prefix == prefix


def test_sentencepiece_starts_texts_with_the_beginning_token(train_sentencepiece, gguf_of):
    metadata = gguf_of(train_sentencepiece("bpe"), "llama")
    assert tokenizer_from_gguf(metadata).prompt_prefix == [1]
    assert tokenizer_from_gguf(without(metadata, "bos_token_id", "eos_token_id")).prompt_prefix == [1]


def test_transformers_opens_it_after_saving(metadata, tmp_path):
    tokenizer = tokenizer_from_gguf(with_(metadata, add_bos_token=True))
    tokenizer.save(tmp_path)
    theirs, again = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.open(tmp_path)
    for text in ("Hello <tool> world\n", "<|im_end|>"):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode(text, allow_special=True) == theirs(text, add_special_tokens=False).input_ids
    assert theirs("Hello").input_ids == tokenizer.prompt_prefix + tokenizer.encode("Hello")
    assert again.prompt_prefix == tokenizer.prompt_prefix == [0]


def test_end_tokens_need_no_key(metadata):
    assert tokenizer_from_gguf(without(metadata, "eos_token_id", "token_type")).eos_ids == (0, 2)


def test_end_of_turn_and_end_of_message_have_keys(metadata):
    tokenizer = tokenizer_from_gguf(with_(metadata, eot_token_id=10, eom_token_id=11))
    assert tokenizer.eos_ids == (0, 2, 10, 11)
    assert {10, 11} <= set(tokenizer.special_tokens.values())


def test_harmony_ends_messages_that_are_no_answers(metadata):
    def ends(*more):
        tokens = [*metadata[PREFIX + "tokens"], *more]
        return tokenizer_from_gguf(with_(without(metadata, "token_type"), tokens=tokens)).eos_ids

    assert ends("<|end|>", "<|return|>", "<|call|>") == (0, 2, 703, 704)
    assert ends("<|end|>", "<|return|>") == (0, 2, 702, 703)


def test_several_chat_templates(metadata):
    several = metadata | {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "{{ tools }}"}
    tokenizer = tokenizer_from_gguf(several)
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.require_chat_template([{"name": "f"}]) == "{{ tools }}"
    assert gguf_metadata_of(tokenizer).items() >= {key: several[key] for key in several if "chat" in key}.items()


def test_padding_outside_of_the_vocabulary_is_nothing(metadata):
    assert "pad_token" not in tokenizer_from_gguf(with_(metadata, padding_token_id=9999)).named_tokens


def test_empty_tokens_get_a_name(metadata):
    tokens = ["", *metadata[PREFIX + "tokens"][1:]]
    assert tokenizer_from_gguf(with_(metadata, tokens=tokens)).special_tokens["[EMPTY_0]"] == 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": "rwkv"}, "of kind 'rwkv'"),
        ({"model": "gtp2"}, r"of kind 'gtp2' .*did you mean 'gpt2'\?"),
        ({"model": None}, r"model is 'None', expected a text"),
        ({"pre": "llama-bqe"}, r"did you mean 'llama-bpe'\?"),
        ({"tokens": None}, r"a list of texts as tokenizer\.ggml\.tokens, got none"),
        ({"tokens": [1, 2]}, r"a list of texts as tokenizer\.ggml\.tokens, got list \[1, 2\]"),
        ({"tokens": []}, "holds no vocabulary"),
        ({"tokens": ["a", "b", "a"]}, "has 'a' twice, as 0 and 2"),
        ({"token_type": [1]}, r"expected 702 tokenizer\.ggml\.token_type, one for each token, got 1"),
        ({"merges": None}, r"a list of texts as tokenizer\.ggml\.merges, got none"),
        ({"merges": ["abc"]}, r"has 'abc', expected two tokens"),
        ({"merges": ["no such"]}, "merges do not fit the vocabulary"),
        ({"model": "llama"}, r"a list of numbers as tokenizer\.ggml\.scores, got none"),
        ({"bos_token_id": 702}, r"bos_token_id is 702, expected 0 to 701"),
        ({"model": "t5", "scores": [1.0]}, r"expected 702 tokenizer\.ggml\.scores, one for each token, got 1"),
        ({"eos_token_id": "2"}, r"eos_token_id is 2, expected 0 to 701"),
        ({"eos_token_id": -1}, r"eos_token_id is -1, expected 0 to 701"),
        ({"bos_token_id": None, "add_bos_token": True}, r"add_bos_token is true, but there is no"),
    ],
)
def test_files_that_make_no_sense(metadata, changes, complaint):
    with pytest.raises(UserError, match=complaint):
        tokenizer_from_gguf(with_(metadata, **changes))


JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text()
    | st.lists(st.integers() | st.text())
)
NAMES = ("model", "pre", "tokens", "token_type", "scores", "merges", "bos_token_id", "eot_token_id", "add_bos_token")


@given(
    changes=st.dictionaries(st.sampled_from([*NAMES, "precompiled_charsmap"]), JUNK),
    model=st.sampled_from(["t5", "llama"]),
)
def test_whatever_the_keys_hold_it_is_a_tokenizer_or_one_clear_error(changes, model):
    tokens = {
        "tokens": ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab"],
        "scores": [0.0] * 7,
        "model": model,
        "unknown_token_id": 0,
    }
    try:
        tokenizer = tokenizer_from_gguf({PREFIX + name: value for name, value in {**tokens, **changes}.items()})
    except UserError:
        return
    assert tokenizer.decode(tokenizer.encode("ab")) in ("ab", " ab", "")


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "tokenizer.chat_templates"])
def test_templates_of_other_kinds(metadata, key):
    with pytest.raises(UserError, match=f"{key} is '5', expected a"):
        tokenizer_from_gguf(metadata | {key: 5})
