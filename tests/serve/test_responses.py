"""Responses through OpenAI's own client."""

import json

import jsonschema
import pytest
from tiny_server import Running


def respond(running: Running, **options):
    return running.client().responses.create(**{"model": "tiny", "input": "Hi", "max_output_tokens": 16, **options})


def test_a_response_is_what_a_chat_is(running):
    response = respond(running, temperature=0, instructions="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    chat = running.client().chat.completions.create(model="tiny", messages=messages, max_tokens=16, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert (response.status == "incomplete") == (chat.choices[0].finish_reason == "length")


def test_events_add_up_to_the_response(running):
    options = {"temperature": 0, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = respond(running, **options)
    events = list(respond(running, stream=True, **options))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [events[0].type, events[1].type] == ["response.created", "response.in_progress"]
    assert events[-1].type == f"response.{whole.status}"
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text
    assert sum(len(event.logprobs) for event in deltas) == len(whole.output[0].content[0].logprobs) > 0
    (streamed,), (at_once,) = events[-1].response.output[0].content, whole.output[0].content
    assert streamed.text == at_once.text
    assert [one.token for one in streamed.logprobs] == [one.token for one in at_once.logprobs]
    expected = pytest.approx([one.logprob for one in at_once.logprobs], abs=1e-5)
    assert [one.logprob for one in streamed.logprobs] == expected
    assert events[-1].response.usage == whole.usage


def test_a_stream_helper_of_the_client_puts_it_together(running):
    with running.client().responses.stream(model="tiny", input="Hi", max_output_tokens=16, temperature=0) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(texts) == respond(running, temperature=0).output_text


def test_a_response_follows_a_json_schema(running):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    jsonschema.validate(json.loads(respond(running, text=form, max_output_tokens=60).output_text), schema)


def test_a_conversation_of_items(running):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho", "annotations": []}]},
        {"role": "user", "content": "Again"},
    ]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Again"},
    ]
    chat = running.client().chat.completions.create(model="tiny", messages=messages, max_tokens=16, temperature=0)
    assert respond(running, input=items, temperature=0).output_text == chat.choices[0].message.content


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"previous_response_id": "resp_1"}, "stores no responses"),
        ({"background": True}, "stores no responses"),
        ({"input": []}, "input"),
        ({"input": [{"type": "computer_call"}]}, "input item 0"),
        ({"input": "x" * 600}, "context is 512"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_what_is_wrong_is_told(running, options, said):
    answer = running.post("/v1/responses", **{"model": "tiny", "input": "Hi", **options})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
