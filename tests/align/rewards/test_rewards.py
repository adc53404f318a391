"""Each reward gives what is right its due and what is a trick nothing."""

import pytest

from vesalius.align.rewards.formats import format_reward, tag_reward
from vesalius.align.rewards.json_schema import schema_reward
from vesalius.align.rewards.matches import ExactMatch, NumberMatch
from vesalius.align.rewards.python_tests import PythonTests, python_code, same
from vesalius.data.task import Case, Task


def task(kind="number", **fields) -> Task:
    return Task(messages=[{"role": "user", "content": "?"}], kind=kind, name="t", split_key="t", **fields)


@pytest.mark.parametrize("text", ["42", "It is 42.", "42.0", "40 + 2 = 42", "<think>41?</think>42"])
def test_the_right_number_in_any_dress(text):
    assert NumberMatch()(task(answer="42"), text).value == 1


@pytest.mark.parametrize(
    "text",
    [
        "43", "", "nothing", "4 2", "42 41", "<think>42</think>", "42 is not it, it is 41", "1e999999999", "-42", "420",
        " ".join(map(str, range(43))), "40, 41, 42", "42" * 5000, "forty-two",
    ],
)  # fmt: skip
def test_every_other_text_is_worth_nothing(text):
    assert NumberMatch()(task(answer="42"), text).value == 0


def test_a_tagged_number_is_the_tag_s_whole_content():
    assert NumberMatch("tagged")(task(answer="42"), "<think>6 × 7</think><answer> 42 </answer>").value == 1
    for text in ("<answer>41 42</answer>", "<answer>It is 42</answer>", "42", "<think><answer>42</answer></think>"):
        assert NumberMatch("tagged")(task(answer="42"), text).value == 0


def test_numbers_are_the_same_or_as_close_as_is_asked():
    right = task(answer="0.3333")
    assert NumberMatch()(right, "0.3334").value == 0
    assert NumberMatch(relative=1e-2)(right, "0.3334").value == 1
    assert NumberMatch(absolute=1e-5)(right, "0.3334").value == 0
    assert NumberMatch(relative=1e-2)(right, "1e999").value == 0
    assert NumberMatch()(task(answer="12345678901234567890"), "12345678901234567891").value == 0


def test_the_same_text_but_for_case_and_blanks():
    paris = task("exact", answer="New York")
    assert ExactMatch()(paris, "\nnew   york.").value == 1
    for text in ("New York or Rome", "It is New York", "", "<think>New York</think>", "New York New York"):
        assert ExactMatch()(paris, text).value == 0
    assert ExactMatch("tagged")(paris, "I think <answer>New York</answer>").value == 1


GOOD = "<think>6 × 7</think>\n<answer>42</answer>"


def test_the_whole_form_and_nothing_beside_it():
    assert format_reward(task(), GOOD).value == 1
    for text in (
        "", "42", f"Well: {GOOD}", f"{GOOD} Done.", GOOD + GOOD, "<think></think><answer>42</answer>",
        "<think> </think><answer> </answer>", "<answer>42</answer><think>6</think>",
        "<think>6<answer>42</answer></think>",
        "<think><think>6</think></think><answer>42</answer>", "<think>6</think><answer><answer>42</answer></answer>",
    ):  # fmt: skip
        assert format_reward(task(), text).value == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (GOOD, 1), ("", 0), ("<think>", 0.25), ("<think>a</think>", 0.5), ("<think>" * 9, 0), (GOOD + GOOD, 0),
        ("</answer><answer></think><think>", 0.25), ("<think>a</think><answer>4<answer>2</answer>", 0.75),
    ],
)  # fmt: skip
def test_a_quarter_for_each_tag_in_its_place(text, value):
    assert tag_reward(task(), text).value == value


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize("text", ['{"n": 1}', ' {"n": 1}\n', '```json\n{"n": 1}\n```', '<think>x</think>{"n": 1}'])
def test_json_that_fits_the_schema(text):
    assert schema_reward(task("json", schema=SCHEMA), text).value == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"n": "1"}', "does not fit"), ('{"n": 1, "m": 2}', "does not fit"), ('Here: {"n": 1}', "not JSON"),
        ('{"n": 1} {"n": 2}', "not JSON"), ('{"n": "x", "n": 1}', "same key twice"), ('{"n": NaN}', "not JSON"),
        ("", "not JSON"), ("[" * 30000, "not JSON"), ('<think>{"n": 1}</think>', "not JSON"),
        ('{"n": ' + "1" * 5000 + "}", "not JSON"), ("{'n': 1}", "not JSON"),
        ('"' + "x" * 70000 + '"', "more than 65536"),
    ],
)  # fmt: skip
def test_what_is_no_json_or_does_not_fit(text, reason):
    verdict = schema_reward(task("json", schema=SCHEMA), text)
    assert verdict.value == 0
    assert reason in verdict.reason


def test_a_reference_to_elsewhere_is_not_fetched():
    verdict = schema_reward(task("json", schema={"$ref": "http://127.0.0.1:9/x.json"}), "1")
    assert (verdict.value, "which is not in it" in verdict.reason) == (0, True)


ADD = task("python", function="add", cases=(Case((1, 2), 3), Case((5, -5), 0), Case((0, 0), 0)))


@pytest.mark.parametrize(
    "text",
    [
        "def add(a, b): return a + b", "```python\ndef add(a, b):\n    return a + b\n```",
        "```\nadd = int.__add__\n```",
        "I try:\n```python\ndef add(a): pass\n```\nBetter:\n```py\nimport operator\nadd = operator.add\n```\nDone.",
        "<think>def add: ...</think>\n```python\ndef add(a, b): return a + b\n```",
        "def add(a, b): return float(a + b)",
    ],
)  # fmt: skip
def test_code_that_passes(text):
    assert PythonTests()(ADD, text).value == 1


TRICKS = {
    "leaves before the tests": "import sys; sys.exit(0)",
    "leaves in the test": "import os\ndef add(a, b): os._exit(0)",
    "is equal to everything": "class A:\n def __eq__(self, o): return True\ndef add(a, b): return A()",
    "is an equal number": "class A(int):\n def __eq__(self, o): return True\ndef add(a, b): return A()",
    "replaces int": "import builtins\nbuiltins.int = lambda *a: 3\ndef add(a, b): return None",
    "prints what is expected": "def add(a, b): print(a + b)",
    "asserts nothing": "import builtins\nbuiltins.AssertionError = Warning\ndef add(a, b): assert True",
    "replaces comparison": "import math\nmath.isclose = lambda *a, **b: True\ndef add(a, b): return 9",
    "replaces the harness": "import sys\nsys.modules['__main__'].same = lambda *a: True\ndef add(a, b): return 9",
    "writes a verdict": """
import os
def add(a, b):
    for i in range(9):
        try: os.write(i, b'{"value": 1.0, "passed": true}\\n')
        except OSError: pass
""",
    "gives one constant": "def add(a, b): return 0",
    "only in a thought": "<think>```python\ndef add(a, b): return a + b\n```</think>",
    "a generator": "def add(a, b): yield a + b",
    "is True": "def add(a, b): return a + b == 3",
}


@pytest.mark.parametrize("name", TRICKS)
def test_tricks_pass_no_test_suite(name):
    assert PythonTests()(ADD, TRICKS[name]).value == 0


def test_a_part_counts_only_where_it_is_asked_for():
    text = "def add(a, b): return 0"
    assert PythonTests()(ADD, text).value == 0
    assert PythonTests(partial=True)(ADD, text).value == pytest.approx(2 / 3)
    assert PythonTests(partial=True)(ADD, text).reason == "2 of 3 tests; gave 0, expected 3"


def test_many_answers_keep_their_places():
    texts = [
        "",
        "def add(a, b): return a + b",
        "```\n```",
        "def add(a, b): return a - b",
        "def add(a, b): return b + a",
    ]
    assert [verdict.value for verdict in PythonTests().many([ADD] * 5, texts)] == [0, 1, 0, 0, 1]


def test_the_code_of_an_answer():
    assert python_code("x = 1") == "x = 1"
    assert python_code("<think>no end") == ""


@pytest.mark.parametrize(
    ("ours", "expected", "verdict"),
    [
        (1, 1, True), (1.0, 1, True), (True, 1, False), (0, False, False), (None, 0, False), ("1", 1, False),
        ([1, [2.0]], [1, [2]], True), ((1,), [1], False), ({1}, {1}, True), ({"a": 0.1 + 0.2}, {"a": 0.3}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False), ([1], [1, 2], False), (float("nan"), float("nan"), True),
        (2**53, float(2**53), True), (2**53 + 1, float(2**53), False), ("a", "a", True), ([True], [1], False),
    ],
)  # fmt: skip
def test_values_are_the_same_more_strictly_than_python_has_it(ours, expected, verdict):
    assert same(ours, expected) is verdict
