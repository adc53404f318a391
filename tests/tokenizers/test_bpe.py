import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer

ASSIGNED = st.characters(exclude_categories=["Cn", "Cs"])
SURROGATES = st.characters(categories=["Cs"])
WORDS = st.lists(
    st.sampled_from(["self", "    ", "\n", "return", " None", "世界", "🤖", "<|im_end|>", "'s", "12345"])
).map("".join)
TEXT = st.text(alphabet=ASSIGNED) | WORDS | st.text(alphabet=ASSIGNED | SURROGATES)


@given(TEXT)
def test_ids_are_those_of_the_fast_encoder(bpe, tokenizer, text):
    assert bpe.encode(text) == tokenizer.encode(text)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_come_back(bpe, data):
    assert bpe.decode(bpe.encode(data)) == data


@given(st.text(alphabet=ASSIGNED) | WORDS)
def test_bytes_that_are_text_are_encoded_as_that_text(bpe, text):
    assert bpe.encode(text.encode()) == bpe.encode(text)


@given(WORDS, st.binary(max_size=4), WORDS)
def test_bytes_that_are_no_text_leave_the_words_around_them_whole(bpe, before, junk, after):
    head, tail = before.encode() + b" x\n", b"\n x" + after.encode()
    ids = bpe.encode(head + b"\xff" + junk + b"\xff" + tail)
    assert bpe.decode(ids) == head + b"\xff" + junk + b"\xff" + tail
    whole = bpe.encode(head)
    assert ids[: len(whole)] == whole


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000])
def test_a_run_of_one_letter_is_merged_from_the_left(length):
    bpe = train_bpe(["a" * 100, "aaa aa", "a" * 37], 264)
    assert bpe.encode("a" * length) == Tokenizer.from_bpe(bpe).encode("a" * length)


def test_a_megabyte_of_one_letter():
    bpe = train_bpe(["a" * 100, "aaa aa", "a" * 37], 264)
    assert bpe.encode("a" * 2**20) == Tokenizer.from_bpe(bpe).encode("a" * 2**20)


def test_text_never_gives_special_tokens(bpe):
    text = "".join(bpe.special_tokens)
    ids = bpe.encode(text)
    assert not set(ids) & set(bpe.special_tokens.values())
    assert bpe.decode(ids) == text.encode()


def test_special_tokens_decode_to_their_text(bpe):
    assert bpe.decode([0, *bpe.encode("x"), 2]) == b"<|endoftext|>x<|im_end|>"
