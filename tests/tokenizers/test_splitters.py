import doctest

import pytest
from characters import OLD_CHARACTERS
from hypothesis import given
from hypothesis import strategies as st

from vesalius.tokenizers import splitters as module
from vesalius.tokenizers.splitters import SPLITTERS, split

TEXTS = st.text(OLD_CHARACTERS, max_size=30) | st.text("aé12½٣³_-$ .'s▁\t\n\x85\u3000世\u0301\u200d€", max_size=30)
LOSSLESS = ["digit_runs", "digits", "gpt2", "llama3", "metaspace", "signs"]


@pytest.mark.parametrize("name", sorted(SPLITTERS))
@given(text=TEXTS)
def test_pieces_are_those_of_the_library(name, text):
    assert split(text, name) == [piece for piece, _ in SPLITTERS[name].backend().pre_tokenize_str(text)]


@pytest.mark.parametrize("name", LOSSLESS)
@given(text=TEXTS)
def test_pieces_together_are_the_text(name, text):
    assert "".join(split(text, name)) == (text.replace(" ", "▁") if name == "metaspace" else text)


def test_examples_in_docstrings():
    assert doctest.testmod(module).failed == 0
