import doctest

import pytest
import tokenizers
from characters import OLD_CHARACTERS
from hypothesis import example, given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.tokenizers import normalizers as module
from vesalius.tokenizers.normalizers import NORMALIZERS, check_normalizers, normalize, put_normalizers

PECULIAR = "aÉﬁ①Åᄀᄁ각ΣİßǅΌ\u0301\u0302\u0903\u200b\ufeff\0\t\r\n\x85\u3000世\U0002b820 "
TEXTS = st.text(OLD_CHARACTERS, max_size=30) | st.text(PECULIAR, max_size=30)


@pytest.mark.parametrize("name", sorted(NORMALIZERS))
@given(text=TEXTS)
@example(text="".join(map(chr, range(0x300))))
def test_text_becomes_what_the_library_makes_of_it(name, text):
    assert normalize(text, [name]) == NORMALIZERS[name].backend().normalize_str(text)


@given(st.lists(st.sampled_from(sorted(NORMALIZERS)), max_size=3), TEXTS)
def test_rules_apply_one_after_the_other_and_before_what_is_there(names, text):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    put_normalizers(backend, names)
    assert backend.normalizer.normalize_str(text) == normalize(text, names).replace(" ", "▁")


def test_no_rules_leave_a_backend_without_a_normalizer():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    put_normalizers(backend, [])
    assert backend.normalizer is None


def test_an_unknown_rule():
    with pytest.raises(UserError, match="unknown normalizer 'nfkcc': did you mean 'nfkc'"):
        check_normalizers(["nfc", "nfkcc"])


def test_examples_in_docstrings():
    assert doctest.testmod(module).failed == 0
