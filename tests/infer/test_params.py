"""Settings: what is refused, and the forms in which they may be given."""

import math

import pytest

from vesalius.core.errors import UserError
from vesalius.infer.params import SamplingOptions, SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("min_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", math.nan),
        ("typical_p", 0),
        ("typical_p", "0.5"),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.nan),
        ("presence_penalty", math.inf),
        ("frequency_penalty", None),
        ("no_repeat_ngram_size", 0),
        ("logit_bias", {"a": 1.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", [1]),
        ("bad_words", ("",)),
        ("bad_words", (1,)),
        ("bad_words_ids", ((),)),
        ("bad_words_ids", ((1.5,),)),
        ("bad_words_ids", (1,)),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", "text"),
        ("top_logprobs", -1),
        ("num_beams", 0),
        ("length_penalty", math.nan),
        ("early_stopping", "soon"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"{name} = .*expected"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens = 9 is more than max_tokens = 8"),
        ({"num_beams": 2, "temperature": 1.0}, "beam search draws nothing"),
        ({"num_beams": 2, "stop": "x"}, "stop texts with num_beams"),
        ({"num_beams": 2, "top_logprobs": 1}, "top_logprobs with num_beams"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SamplingParams.of(**options)


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("stop", None, ()),
        ("stop", "ab", ("ab",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("bad_words", "ab", ("ab",)),
        ("bad_words", ["a", "b"], ("a", "b")),
        ("bad_words_ids", [[1, 2], [3]], ((1, 2), (3,))),
        ("bad_words_ids", None, ()),
        ("logit_bias", {"7": -1.5, 8: 2}, {7: -1.5, 8: 2}),
        ("logit_bias", None, {}),
        ("early_stopping", "never", "never"),
    ],
)
def test_settings_may_be_given_in_looser_forms(name, given, kept):
    assert getattr(SamplingParams.of(**{name: given}), name) == kept


@pytest.mark.parametrize(("name", "value"), [("stop", 3), ("bad_words", [3]), ("bad_words_ids", [3]), ("stop", b"x")])
def test_forms_that_make_no_sense_are_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"{name} = .*expected"):
        SamplingParams.of(**{name: value})


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams.of(temprature=1.0)  # type: ignore[call-arg]


def test_the_options_are_the_fields_of_the_params():
    assert set(SamplingOptions.__annotations__) == set(SamplingParams.__dataclass_fields__)
