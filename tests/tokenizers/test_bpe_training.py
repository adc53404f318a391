import random
import re
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.tokenizers import merging
from vesalius.tokenizers.bpe import SPECIAL_TOKENS
from vesalius.tokenizers.bpe_training import train_bpe

FEW_LETTERS = st.lists(st.text(alphabet="aab  \nc.", max_size=40), max_size=6)  # many ties, many runs of one letter
MIXED = st.lists(st.text(alphabet="ab é🤖1 \n", max_size=40), min_size=1, max_size=6)


def supported_size(documents, vocab_size):
    """`vocab_size`, or as many tokens as the documents support."""
    try:
        train_bpe(documents, vocab_size, [])
    except UserError as error:
        return int(re.search(r"at most (\d+) tokens", str(error))[1])
    return vocab_size


@settings(max_examples=150, deadline=None)
@given(FEW_LETTERS | MIXED, st.integers(256, 290))
def test_merges_and_ids_are_those_of_hugging_face(hf_train, printable, documents, wanted):
    size = supported_size(documents, wanted)
    assert printable(train_bpe(documents, size, [])) == hf_train(documents, size, [])


@settings(max_examples=50, deadline=None)
@given(FEW_LETTERS)
def test_the_error_names_how_many_tokens_hugging_face_reaches(hf_train, documents):
    _, vocab = hf_train(documents, 10_000, [])
    with pytest.raises(UserError, match=rf"vocab_size is 10000, but this text supports at most {len(vocab)} tokens"):
        train_bpe(documents, 10_000, [])


@pytest.mark.parametrize("special_tokens", [(), SPECIAL_TOKENS])
def test_real_text_gives_the_merges_of_hugging_face(hf_train, printable, documents, special_tokens):
    assert printable(train_bpe(documents, 1500, special_tokens)) == hf_train(documents, 1500, special_tokens)


@pytest.mark.slow
def test_the_standard_library_gives_the_merges_of_hugging_face(hf_train, printable):
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    documents = [file.read_text("utf-8", errors="replace") for file in files]
    assert printable(train_bpe(documents, 8192)) == hf_train(documents, 8192, SPECIAL_TOKENS)


def test_ties_go_to_the_smaller_ids():
    """Each pair occurs twice; letters have rising ids, and the left one decides before the right one."""
    assert train_bpe(["zb ya yb", "zb ya yb"], 256 + 1, []).merges == [(b" ", b"y")]
    assert train_bpe(["zb", "ya", "yb"] * 2, 256 + 3, []).merges == [(b"y", b"a"), (b"y", b"b"), (b"z", b"b")]


def test_a_run_is_merged_from_the_left():
    assert train_bpe(["aaaaab"], 259, []).merges == [(b"a", b"a"), (b"a", b"b"), (b"aa", b"aa")]


def test_the_order_of_documents_does_not_matter(documents, bpe):
    shuffled = random.Random(0).sample(documents, len(documents))
    assert train_bpe(shuffled, 700) == bpe


def test_blocks_of_any_size_give_the_same(documents, bpe, monkeypatch):
    monkeypatch.setattr(merging, "BLOCK_WORDS", 7)
    assert train_bpe(documents, 700) == bpe


def test_special_tokens_have_the_first_ids_and_all_bytes_follow(bpe):
    assert bpe.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert sorted(bpe.vocab[bytes([byte])] for byte in range(256)) == list(range(3, 259))
    assert sorted(bpe.vocab.values()) == list(range(3, 700))


def test_progress_is_told_after_every_merge(documents):
    sizes = []
    train_bpe(documents, 300, on_merge=sizes.append)
    assert sizes == list(range(260, 301))


def test_a_stream_is_read_once(documents, bpe):
    assert train_bpe(iter(documents), 700) == bpe


def test_no_room_for_the_bytes():
    with pytest.raises(UserError, match="vocab_size is 258, expected at least 259"):
        train_bpe(["text"], 258)


def test_an_empty_corpus_supports_only_the_bytes():
    with pytest.raises(UserError, match="at most 259 tokens"):
        train_bpe([], 260)


@pytest.mark.parametrize("special_tokens", [["<s>", "<s>"], [""]])
def test_special_tokens_that_are_none(special_tokens):
    with pytest.raises(UserError, match="expected different texts, none of them empty"):
        train_bpe(["text"], 300, special_tokens)


@pytest.mark.parametrize("special_token", ["the", "t"])
def test_a_special_token_that_text_would_produce(special_token):
    with pytest.raises(UserError, match=f"special token '{special_token}' is also a piece of the text"):
        train_bpe(["the the the"], 260, [special_token])
