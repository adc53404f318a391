"""Every shape of preferences becomes pairs or ratings, and what is wrong with a row is told with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from vesalius.core.errors import UserError
from vesalius.data.preferences import read_pairs, read_ratings, read_scores


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}
DIALOGUE = [user("Hi"), said("Hello"), user("Sum?")]
SHAPES: dict[str, tuple[dict[str, Any], list[dict[str, str]], list[dict[str, str]]]] = {
    "text": ({"prompt": "Sum?", "chosen": "3", "rejected": "4"}, [user("Sum?")], []),
    "text with a system field": (
        {"system": "Be kind.", "prompt": "Sum?", "chosen": "3", "rejected": "4"}, [SYSTEM, user("Sum?")], [],
    ),
    "messages": ({"prompt": DIALOGUE, "chosen": [said("3")], "rejected": [said("4")]}, DIALOGUE, []),
    "prompt of messages, answers of text": ({"prompt": DIALOGUE, "chosen": "3", "rejected": "4"}, DIALOGUE, []),
    "no prompt": ({"chosen": [*DIALOGUE, said("3")], "rejected": [*DIALOGUE, said("4")]}, DIALOGUE, []),
    "answers that repeat the prompt": (
        {"prompt": "Sum?", "chosen": [user("Sum?"), said("3")], "rejected": [user("Sum?"), said("4")]},
        [user("Sum?")], [],
    ),
    "ShareGPT": (
        {
            "chosen": [{"from": "human", "value": "Sum?"}, {"from": "gpt", "value": "3"}],
            "rejected": [{"from": "human", "value": "Sum?"}, {"from": "gpt", "value": "4"}],
        },
        [user("Sum?")], [],
    ),
    "human and assistant": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Sum?\n\nAssistant: 3",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Sum?\n\nAssistant: 4",
        },
        DIALOGUE, [],
    ),
    "answers that go on": (
        {
            "prompt": [user("Sum?")],
            "chosen": [said("3"), user("Sure?"), said("Yes")],
            "rejected": [said("4"), user("Sure?"), said("Yes")],
        },
        [user("Sum?")], [user("Sure?"), said("Yes")],
    ),
}  # fmt: skip


def write_lines(folder: Path, *rows: Any) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_becomes_a_pair(shape: str, tmp_path: Path) -> None:
    row, prompt, more = SHAPES[shape]
    [pair] = read_pairs([write_lines(tmp_path, row)])
    assert pair.prompt == prompt
    assert (pair.chosen, pair.rejected) == ([said("3"), *more], [said("4"), *more])
    assert pair.name.endswith("pairs.jsonl:1")


def test_the_same_two_answers_keep_their_prompt(tmp_path: Path) -> None:
    [pair] = read_pairs(
        [write_lines(tmp_path, {"chosen": [user("Hi"), said("a")], "rejected": [user("Hi"), said("a")]})]
    )
    assert (pair.prompt, pair.chosen, pair.rejected) == ([user("Hi")], [said("a")], [said("a")])


def test_pairs_of_one_prompt_have_one_split_key(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "chosen": "3", "rejected": wrong} for prompt, wrong in (("S", "4"), ("S", "5"), ("T", "4"))
    ]
    first, same, other = (pair.split_key for pair in read_pairs([write_lines(tmp_path, *rows)]))
    assert first == same != other


@pytest.mark.parametrize("label", [True, 1, "true", "True", "1"])
def test_ratings(label: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Sum?", "completion": "3", "label": label},
        {"prompt": DIALOGUE, "completion": [said("4")], "label": False},
    ]
    good, bad = read_ratings([write_lines(tmp_path, *rows)])
    assert (good.prompt, good.answer, good.desirable) == ([user("Sum?")], [said("3")], True)
    assert (bad.prompt, bad.answer, bad.desirable) == (DIALOGUE, [said("4")], False)


def test_a_pair_is_a_good_rating_and_a_bad_one(tmp_path: Path) -> None:
    spec = write_lines(tmp_path, {"prompt": "Sum?", "chosen": "3", "rejected": "4"})
    good, bad = read_ratings([spec])
    assert (good.answer, good.desirable, good.name) == ([said("3")], True, f"{spec}:1 (chosen)")
    assert (bad.answer, bad.desirable, bad.name) == ([said("4")], False, f"{spec}:1 (rejected)")
    assert good.split_key == bad.split_key


BROKEN_PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "fields": ({"prompt": "a", "chosen": "b"}, "has the fields chosen, prompt; expected those of one shape"),
    "empty answer": ({"prompt": "a", "chosen": " ", "rejected": "b"}, "the assistant's answer is empty"),
    "no answer": ({"prompt": "a", "chosen": [], "rejected": "b"}, "chosen is empty"),
    "null": ({"prompt": "a", "chosen": None, "rejected": "b"}, "expected a list of objects|must be text"),
    "number": (
        {"prompt": 3, "chosen": "b", "rejected": "c"},
        "expected a list of objects with role.*, got 3",
    ),
    "bare text": ({"chosen": "b", "rejected": "c"}, "has no prompt, and its answers are plain text"),
    "other prompts": (
        {"chosen": [user("a"), said("b")], "rejected": [user("c"), said("d")]},
        "after the common prompt chosen goes on with user, assistant",
    ),
    "a user's last word": (
        {"prompt": "a", "chosen": [said("b"), user("c")], "rejected": [said("b"), user("d")]},
        "chosen goes on with user",
    ),
}


@pytest.mark.parametrize("what", BROKEN_PAIRS)
def test_a_broken_pair_is_told_with_its_place(what: str, tmp_path: Path) -> None:
    row, message = BROKEN_PAIRS[what]
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    with pytest.raises(UserError, match=rf"pairs\.jsonl:2.*({message})"):
        list(read_pairs([write_lines(tmp_path, good, row)]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b", "label": "good"}, 'label must be true or false, got "good"'),
        ({"prompt": "a", "completion": "b", "label": None}, "label must be true or false, got null"),
        ({"prompt": "a", "completion": "", "label": True}, "the assistant's answer is empty"),
        ({"prompt": "a", "completion": "b"}, "expected those of one shape: prompt, completion, label"),
    ],
)
def test_a_broken_rating_is_told_with_its_place(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"pairs\.jsonl:1.*{message}"):
        list(read_ratings([write_lines(tmp_path, row)]))


def test_an_unknown_name_is_told_at_once() -> None:
    with pytest.raises(UserError, match="did you mean 'pairs:python'"):
        read_pairs(["pairs:pyton"])


@pytest.mark.parametrize(("margin", "found"), [(None, 0.0), (1.5, 1.5), ("0.25", 0.25)])
def test_a_pair_may_say_by_how_much(margin: Any, found: float, tmp_path: Path) -> None:
    row = {"prompt": "Sum?", "chosen": "3", "rejected": "4", "margin": margin}
    [pair] = read_pairs([write_lines(tmp_path, row)])
    assert pair.margin == found


def test_scored_answers(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Sum?", "completion": "3", "score": 0.75},
        {"prompt": DIALOGUE, "completion": [said("4")], "score": "-2"},
    ]
    first, second = read_scores([write_lines(tmp_path, *rows)])
    assert (first.prompt, first.answer, first.score) == ([user("Sum?")], [said("3")], 0.75)
    assert (second.prompt, second.answer, second.score) == (DIALOGUE, [said("4")], -2.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b", "score": "good"}, 'score must be a number, got "good"'),
        ({"prompt": "a", "completion": "b", "score": True}, "score must be a number, got true"),
        ({"prompt": "a", "completion": "b", "score": float("nan")}, "score must be a number, got NaN"),
        ({"prompt": "a", "completion": " ", "score": 1}, "the assistant's answer is empty"),
        ({"prompt": "a", "completion": "b"}, "has the fields completion, prompt; expected prompt, completion, score"),
    ],
)
def test_a_broken_score_is_told_with_its_place(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"pairs\.jsonl:1.*{message}"):
        list(read_scores([write_lines(tmp_path, row)]))
