"""Settings as they are typed, for the fields of a dataclass."""

from dataclasses import dataclass
from typing import Literal

import pytest

from vesalius.core.errors import UserError
from vesalius.core.typed import fields_of, typed_pair, typed_value


@dataclass
class Kind:
    count: int | None = None
    way: Literal["up", "down"] = "up"


def test_a_pair_ends_at_the_first_equals_sign_and_needs_one():
    assert typed_pair(" stop = a=b ", "x=1") == ("stop", "a=b")
    with pytest.raises(UserError, match="'stop' is not of the form name=value, for example x=1"):
        typed_pair("stop", "x=1")


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("1e3", 1000.0), ("true", True), ("none", None), ("'none'", "none"), ("a b", "a b")]
)
def test_a_value_is_toml_or_text(text, value):
    assert typed_value(text) == value


def test_only_fields_are_taken_and_as_their_types_want_them():
    assert fields_of(Kind, {"count": 3, "way": "down", "other": object()}) == {"count": 3, "way": "down"}
    assert fields_of(Kind, {"count": None}) == {"count": None}
    with pytest.raises(UserError, match="way = 'left': input should be 'up' or 'down'"):
        fields_of(Kind, {"count": 1, "way": "left"})
