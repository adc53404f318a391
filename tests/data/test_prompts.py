"""Prompts out of rows of all the usual shapes, without the answers that stand there."""

import json

import pytest

from vesalius.core.errors import UserError
from vesalius.data.conversation import Conversation
from vesalius.data.prompts import read_prompts

USER = {"role": "user", "content": "Why?"}


def read(folder, *rows):
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return list(read_prompts([str(path)]))


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Why?"}, [USER]),
        ({"question": "Why?", "answer": "So."}, [USER]),
        ({"prompt": [USER], "chosen": "a", "rejected": "b"}, [USER]),
        ({"instruction": "Why?", "input": "", "output": "So."}, [USER]),
        ({"instruction": "Sort", "input": "b a"}, [{"role": "user", "content": "Sort\n\nb a"}]),
        ({"messages": [USER, {"role": "assistant", "content": "So."}, USER]}, [USER]),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, [USER]),
        ({"prompt": "Why?", "system": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER]),
    ],
)
def test_every_shape_gives_what_stands_before_the_first_answer(tmp_path, row, messages):
    (prompt,) = read(tmp_path, row)
    assert prompt.messages == messages
    assert prompt.name.endswith("prompts.jsonl:1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "Why?"}, "has the fields text; expected prompt"),
        ({"prompt": " "}, "asks nothing"),
        ({"messages": [{"role": "assistant", "content": "So."}]}, "asks nothing"),
        ({"prompt": 3}, "the user's content must be text"),
    ],
)
def test_a_row_that_asks_nothing_is_told_with_its_line(tmp_path, row, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, {"prompt": "Why?"}, row)
    assert "prompts.jsonl:2" in str(caught.value)


def test_the_library_s_questions_keep_their_side_of_the_split(monkeypatch):
    talks = [
        Conversation([USER, {"role": "assistant", "content": "So."}], "json.dumps", "json"),
        Conversation([USER, {"role": "assistant", "content": "Ah."}], "json.dumps", "json"),
    ]
    monkeypatch.setattr("vesalius.data.prompts.python_conversations", lambda: iter(talks))
    prompts = list(read_prompts(["questions:python"]))
    assert [one.messages for one in prompts] == [[USER], [USER]]
    assert [one.split_key for one in prompts] == ["json", "json"]
    assert len({one.name for one in prompts}) == 2
