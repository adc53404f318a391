"""Settings as they are typed."""

import pytest

from vesalius.console.settings import sampling_options
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
