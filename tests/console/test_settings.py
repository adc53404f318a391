"""Settings as they are typed."""

import pytest

from vesalius.console.settings import sampling_options, settings_of
from vesalius.core.errors import UserError
from vesalius.infer.params import SamplingParams


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("min_p=0.05", {"min_p": 0.05}),
        (" top_k = 40 ", {"top_k": 40}),
        ("top_p=none", {"top_p": None}),
        ("stop=END", {"stop": "END"}),
        ("stop=a=b", {"stop": "a=b"}),
        ("stop=['a', 'b']", {"stop": ["a", "b"]}),
        ("early_stopping=true", {"early_stopping": True}),
        ("early_stopping=never", {"early_stopping": "never"}),
        ("logit_bias={7=-1.5}", {"logit_bias": {"7": -1.5}}),
        ("bad_words_ids=[[1, 2], [3]]", {"bad_words_ids": [[1, 2], [3]]}),
        ('json_schema={"type": "integer"}', {"json_schema": '{"type": "integer"}'}),
        ("json_object=true", {"json_object": True}),
        ("regex=[0-9]{2}", {"regex": "[0-9]{2}"}),
        ("choices=['yes', 'no']", {"choices": ["yes", "no"]}),
    ],
)
def test_a_change_is_read_as_toml_or_text(change, expected):
    assert sampling_options([change]) == expected
    SamplingParams.of(**sampling_options([change]))


def test_later_changes_win_and_none_make_no_settings():
    assert sampling_options(["top_k=1", "top_k=2"]) == {"top_k": 2}
    assert sampling_options([]) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [("min_q=0.05", "unknown setting 'min_q', did you mean 'min_p'"), ("min_p", "not of the form name=value")],
)
def test_what_is_no_setting_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        sampling_options([change])


def test_the_form_of_an_answer_is_read_from_a_file(tmp_path):
    (tmp_path / "schema.json").write_text('{"type": "integer"}\n')
    given = sampling_options([f"json_schema=@{tmp_path / 'schema.json'}"])
    assert SamplingParams.of(**given).json_schema == {"type": "integer"}
    with pytest.raises(UserError, match=r"cannot read nowhere.lark \(.*give a text file after the @"):
        sampling_options(["grammar=@nowhere.lark"])


def test_settings_of_the_engine_are_read_beside_those_of_the_answer():
    answer, engine = settings_of(["top_k=3", "weight_bytes=75_000_000", "cache_dtype=int8", "swap_file=none"])
    assert answer == {"top_k": 3}
    assert (engine.weight_bytes, engine.cache_dtype, engine.swap_file) == (75_000_000, "int8", None)


def test_what_is_typed_goes_before_what_is_given():
    assert settings_of([], speculation="ngram")[1].speculation == "ngram"
    assert settings_of(["speculation=none"], speculation="ngram")[1].speculation is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weight_byte=1", "unknown setting 'weight_byte', did you mean 'weight_bytes'"),
        ("weight_bytes=75MB", "weight_bytes = '75MB': input should be a valid integer"),
        ("weight_bytes=1.5", "weight_bytes = 1.5: input should be a valid integer"),
        ("weight_bytes=-3", "weight_bytes = -3, expected a number of bytes above 0, or None"),
        ("weight_bytes=0", "weight_bytes = 0, expected a number of bytes above 0, or None"),
        ("cache_dtype=int4", "cache_dtype = 'int4': input should be 'model', 'float32', 'bfloat16' or 'int8'"),
    ],
)
def test_what_the_engine_cannot_take_is_refused_in_one_line(change, message):
    with pytest.raises(UserError, match=message) as caught:
        settings_of([change])
    assert "\n" not in str(caught.value)
