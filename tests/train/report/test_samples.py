"""Tokens: escaped, visible, and shaded by probability."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesalius.train.report.samples import LEVELS, token, visible


@given(st.text())
def test_no_text_makes_an_element_of_its_own(text: str) -> None:
    signs = r'<i class="(?:space|tab|newline)">[ \t]?</i>'
    assert not set('<>"') & set(re.sub(signs, "", visible(text)))


@given(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"])))
def test_visible_text_can_be_copied_as_it_was(text: str) -> None:
    assert html.unescape(re.sub(r"<[^>]*>", "", visible(text))) == text


def test_blank_and_control_characters_get_a_sign() -> None:
    assert visible("  ") == '<i class="space"> </i><i class="space"> </i>'
    assert visible("a\n") == 'a<i class="newline"></i>\n'
    assert visible("\tx") == '<i class="tab">\t</i>x'
    assert visible("\x00\x1b\x7f") == "\u2400\u241b\u2421"


@pytest.mark.parametrize(
    ("probability", "level"), [(1.0, 0), (0.8, 0), (0.79, 1), (0.5, 1), (0.2, 2), (0.05, 3), (0.049, 4), (0.0, 4)]
)
def test_shade_follows_probability(probability: float, level: int) -> None:
    assert token("x", probability).level == level
    assert level < len(LEVELS)


def test_token_without_a_probability_says_so_and_is_plain() -> None:
    shown = token("x", None)
    assert (shown.level, shown.hint) == (0, "probability not recorded")
