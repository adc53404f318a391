"""Streaming text: joined pieces are the decoded text, no piece ends in half a character, and stop texts are cut over
token borders."""

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vesalius.infer.detokenize import Detokenizer
from vesalius.tokenizers.bpe import BPE, SPECIAL_TOKENS
from vesalius.tokenizers.sentencepiece_file import FILE, open_tokenizer
from vesalius.tokenizers.tokenizer import Tokenizer

SPECIAL = {text: i for i, text in enumerate(SPECIAL_TOKENS)}
BYTES = Tokenizer.from_bpe(BPE({bytes([b]): b + len(SPECIAL) for b in range(256)}, [], SPECIAL))
"""Every token is one byte, so every border between bytes is one between tokens."""


def byte_ids(data: bytes) -> list[int]:
    return [b + len(SPECIAL) for b in data]


def pieces(ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The non-empty pieces, and whether a stop text ended them."""
    detokenizer, found = Detokenizer(BYTES, stop), []
    for token in ids:
        found.append(detokenizer.push(token))
        if detokenizer.stopped:
            break
    found.append(detokenizer.close())
    return [piece for piece in found if piece], detokenizer.stopped


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text().map(str.encode), st.binary()))
def test_joined_pieces_are_the_decoded_bytes(data):
    assert "".join(pieces(byte_ids(data))[0]) == data.decode("utf-8", "replace")


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_every_piece_is_whole_characters_of_the_text(text):
    assert pieces(byte_ids(text.encode()))[0] == list(text)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("abc", max_size=30),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
    whole=st.booleans(),
)
def test_text_ends_before_the_stop_that_ends_first(text, stop, whole):
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
    before = text[: ends[0] - max(len(s) for s in stop if text[: ends[0]].endswith(s))] if ends else text
    found, stopped = pieces(byte_ids(text.encode()), stop)
    assert ("".join(found), stopped) == (before, bool(ends))


def test_nothing_that_could_begin_a_stop_text_is_given_out():
    detokenizer = Detokenizer(BYTES, ("<end>",))
    given_out = [detokenizer.push(token) for token in byte_ids(b"a<en<end")]
    assert given_out == ["a", "", "", "", "<en", "", "", ""]
    assert detokenizer.close() == "<end"


def test_a_stop_text_may_hold_a_character_of_several_bytes():
    assert pieces(byte_ids("né à la".encode()), ("é à",)) == (["n"], True)


def test_an_emoji_of_many_tokens_comes_only_whole():
    """Four bytes a code point; the family is four of them with joiners between, each given out as soon as it is
    certain."""
    detokenizer = Detokenizer(BYTES)
    assert [detokenizer.push(token) for token in byte_ids("😀".encode())] == ["", "", "", "😀"]
    family = "👩‍👩‍👧‍👦"
    found, _ = pieces(byte_ids(family.encode()))
    assert found == list(family)


def test_bytes_that_are_no_text_become_replacement_characters_and_text_goes_on():
    assert pieces(byte_ids(b"a\xff\xf0\x9fb\xf0\x9f\x98"))[0] == ["a", "\ufffd", "\ufffdb", "\ufffd"]


@pytest.mark.parametrize("special", SPECIAL.values())
def test_special_tokens_have_no_text(special):
    assert pieces([*byte_ids(b"a"), special, *byte_ids(b"b")])[0] == ["a", "b"]


def test_special_tokens_that_are_shown_have_their_text_and_end_tokens_none():
    detokenizer = Detokenizer(BYTES, ("t|>b",), shown=("<|im_start|>",))
    ids = [*byte_ids(b"a"), SPECIAL["<|im_start|>"], SPECIAL["<|im_end|>"], *byte_ids(b"c"), SPECIAL["<|im_start|>"]]
    text = "".join(map(detokenizer.push, [*ids, *byte_ids(b"b")]))
    assert text == "a<|im_start|>c<|im_star"  # a stop text may begin in one
    assert detokenizer.stopped


@pytest.fixture(scope="module")
def sentencepiece_pair(tmp_path_factory):
    """A vocabulary with blanks before words, as ours and as transformers'."""
    directory = tmp_path_factory.mktemp("sentencepiece")
    file = io.BytesIO()
    texts = ["the cat sees a dog and runs home", "a dog sees the cat", "é 🙂 and so on, again and again"] * 10
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, model_type="bpe", vocab_size=320, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (directory / FILE).write_bytes(file.getvalue())
    tokenizer = open_tokenizer(directory)
    assert tokenizer.drops_first_blank
    tokenizer.save(directory / "saved")
    return tokenizer, AutoTokenizer.from_pretrained(directory / "saved")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["▁the", "▁", "a", "▁dog", "<s>", "</s>", "<0x0A>", "▁and"]), max_size=8))
def test_the_blank_before_an_answer_is_dropped_as_transformers_drops_it(sentencepiece_pair, names):
    tokenizer, theirs = sentencepiece_pair
    ids = [tokenizer.backend.token_to_id(name) for name in names]
    detokenizer = Detokenizer(tokenizer)
    text = "".join([*map(detokenizer.push, ids), detokenizer.close()])
    assert text == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
