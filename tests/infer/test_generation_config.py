"""Recommended settings: read from what is published, as transformers reads it, and written back."""

from pathlib import Path

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.hub.aliases import ALIASES, SMOLLM2, alias_of
from vesalius.hub.pull import alias_path
from vesalius.infer.generation_config import published_options, read_recommended, recommended_options


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ({}, {}),
        ({"eos_token_id": [1, 2], "max_length": 4096, "transformers_version": "5"}, {}),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
            {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05},
        ),
        ({"do_sample": True, "top_p": 0.9}, {"temperature": 1.0, "top_p": 0.9}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 0, "top_p": None}, {"temperature": 0.6}),
        ({"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"do_sample": True, "temperature": 0.6, "top_k": -1}, {"temperature": 0.6}),
        ({"do_sample": False, "temperature": 0.6}, {}),
    ],
)
def test_settings_are_taken_from_what_is_published(published, expected):
    assert recommended_options(published) == expected


def test_a_published_setting_out_of_range_is_told():
    with pytest.raises(UserError, match="top_p = 7, expected"):
        recommended_options({"do_sample": True, "top_p": 7})


def test_a_file_of_an_alias_has_what_its_makers_advise():
    assert read_recommended(alias_path(SMOLLM2)) == {"temperature": 0.2, "top_p": 0.9}
    assert read_recommended(Path("elsewhere") / SMOLLM2.opened_by) == {}
    for alias in ALIASES.values():
        assert alias_of(alias_path(alias) if alias.opened_by else Path("any")) in (alias, None)
        recommended_options(alias.recommended)  # none is out of its range


settings = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.1, 2),
        "top_k": st.integers(1, 99),
        "top_p": st.floats(0.1, 1),
        "repetition_penalty": st.floats(0.5, 2),
    },
)


@given(settings)
def test_what_is_written_is_read_back(options):
    expected = options if "temperature" in options else {k: v for k, v in options.items() if k == "repetition_penalty"}
    assert recommended_options(published_options(options)) == expected


def test_transformers_understands_what_is_written():
    written = published_options({"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1, "max_tokens": 9})
    config = transformers.GenerationConfig(**written)
    assert (config.do_sample, config.temperature, config.top_k, config.repetition_penalty) == (True, 0.7, 20, 1.1)


def test_a_model_without_the_file_recommends_nothing(tmp_path):
    assert read_recommended(tmp_path) == read_recommended(tmp_path / "model.gguf") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "generation_config.json: .*delete it"), ("[]", "expected an object"), ('{"repetition_penalty": 0}', "0")],
)
def test_a_file_that_is_wrong_is_told_with_its_name(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_recommended(tmp_path)
