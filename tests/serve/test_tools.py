"""Calls of tools and thoughts, through the client of OpenAI. A grammar makes a random model write what a test wants."""

import json
from pathlib import Path

import jsonschema
import pytest
from tiny_server import byte_tokenizer, serving, tiny_lm, with_engine

from vesalius.infer.constrain import ConstraintSpec, compile_constraint

TEMPLATES = Path(__file__).parent.parent / "tokenizers" / "templates"
HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Padua", "Basel"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": SCHEMA}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
PADUA = '{"city": "Padua", "days": 3}'
TWO_CALLS = {
    "qwen": f'<tool_call>\n{{"name": "weather", "arguments": {PADUA}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>',
    "llama3": f'{{"name": "weather", "parameters": {PADUA}}}; {{"name": "clock", "parameters": {{}}}}',
    "mistral": f'[TOOL_CALLS] [{{"name": "weather", "arguments": {PADUA}}}, {{"name": "clock", "arguments": {{}}}}]',
}


@pytest.fixture(scope="module", params=TWO_CALLS)
def style(request):
    return request.param


@pytest.fixture(scope="module")
def calling(style):
    """A server whose model has the template of a family that calls tools."""
    template = (TEMPLATES / f"{style}.jinja").read_text()
    lm = tiny_lm(
        byte_tokenizer(chat_template=template, bos_token="<|endoftext|>", eos_token="<|im_end|>"), context=4096
    )
    with serving(with_engine(lm)) as running:
        yield running


@pytest.fixture
def says(calling, monkeypatch):
    """Makes the model write a text, where nothing else holds its answer to a form."""

    def say(text):
        lm = calling.service.served.lm
        add = lm.engine.add
        spec = ConstraintSpec(choices=(text,))

        def held(ids, params, *, constraint=None, **others):
            return add(ids, params, constraint=constraint or compile_constraint(lm.tokenizer, spec), **others)

        monkeypatch.setattr(lm.engine, "add", held)

    return say


def chat(running, **options):
    return running.client().chat.completions.create(
        **{"model": "tiny", "messages": HI, "max_tokens": 200, "tools": TOOLS, "seed": 1, **options}
    )


def put_together(chunks):
    """The message that the chunks of a stream add up to."""
    content, reasoning, calls, reason = "", "", {}, None
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or []:
                told = calls.setdefault(call.index, {"id": call.id, "name": call.function.name, "arguments": ""})
                told["arguments"] += call.function.arguments
    return content, reasoning, [calls[place] for place in sorted(calls)], reason


def test_parallel_calls_are_read_out_of_the_text(calling, says, style):
    says(TWO_CALLS[style])
    choice = chat(calling).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [("weather", PADUA), ("clock", "{}")]
    assert len({call.id for call in calls}) == 2
    content, _, streamed, reason = put_together(chat(calling, stream=True))
    assert (content, reason) == ("", "tool_calls")
    assert [(call["name"], call["arguments"]) for call in streamed] == [("weather", PADUA), ("clock", "{}")]


def test_without_tools_the_same_text_is_content(calling, says, style):
    says(TWO_CALLS[style])
    choice = chat(calling, tools=None).choices[0]
    assert choice.message.content == TWO_CALLS[style]
    assert choice.finish_reason == "stop"
    assert chat(calling, tool_choice="none").choices[0].message.content == TWO_CALLS[style]


def test_a_plain_answer_stays_one(calling, says):
    says("It rains.")
    assert chat(calling).choices[0].message.content == "It rains."
    assert put_together(chat(calling, stream=True)) == ("It rains.", "", [], "stop")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_asked_for_is_made_and_fits_its_schema(calling, choice, stream):
    no_thought = {str(calling.service.served.lm.tokenizer.encode("h")[0]): -100}  # "<think>" would never end
    for seed in range(2):
        answer = chat(
            calling,
            tool_choice=choice,
            seed=seed,
            stream=stream,
            parallel_tool_calls=False,
            tools=[WEATHER],
            logit_bias=no_thought,
        )
        if stream:
            _, _, calls, reason = put_together(answer)
            made = [(call["name"], call["arguments"]) for call in calls]
        else:
            reason = answer.choices[0].finish_reason
            made = [(call.function.name, call.function.arguments) for call in answer.choices[0].message.tool_calls]
        assert reason == "tool_calls"
        assert [name for name, _ in made] == ["weather"]
        jsonschema.validate(json.loads(made[0][1]), SCHEMA)


def test_a_conversation_with_a_call_and_its_result_goes_on(calling, says, style):
    says(TWO_CALLS[style].split(";")[0] if style == "llama3" else TWO_CALLS[style])
    message = chat(calling).choices[0].message
    calls = message.tool_calls[:1]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls]
    history = [
        *HI,
        {**message.model_dump(exclude_none=True), "tool_calls": [call.model_dump() for call in calls]},
        *results,
    ]
    says("It rains.")
    assert chat(calling, messages=history).choices[0].message.content == "It rains."
    rendered = calling.post("/render", messages=history, tools=TOOLS).json()["text"]
    assert "rain" in rendered
    assert "Padua" in rendered


def test_responses_tell_of_calls_as_items(calling, says, style):
    says(TWO_CALLS[style])
    flat = [{"type": "function", **tool["function"]} for tool in TOOLS]
    options = {"model": "tiny", "input": "Hi", "tools": flat, "max_output_tokens": 200}
    whole = calling.client().responses.create(**options)
    assert [(item.type, item.name, item.arguments) for item in whole.output] == [
        ("function_call", "weather", PADUA),
        ("function_call", "clock", "{}"),
    ]
    assert whole.status == "completed"
    events = list(calling.client().responses.create(stream=True, **options))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [event.arguments for event in done] == [PADUA, "{}"]
    assert [item.arguments for item in events[-1].response.output] == [PADUA, "{}"]
    assert all(item.status == "completed" for item in events[-1].response.output)


def test_a_response_goes_on_from_calls_and_their_results(calling, says):
    says("It rains.")
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "function_call", "call_id": "call00001", "name": "weather", "arguments": PADUA},
        {"type": "function_call_output", "call_id": "call00001", "output": "rain"},
    ]
    flat = [{"type": "function", **WEATHER["function"]}]
    answer = calling.client().responses.create(model="tiny", input=items, tools=flat, max_output_tokens=50)
    assert answer.output_text == "It rains."


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "wether"}}}, "did you mean 'weather'"),
        ({"tools": [WEATHER, WEATHER]}, "second function 'weather'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
            "expected 'object'",
        ),
        ({"messages": [*HI, {"role": "tool", "content": "rain", "tool_call_id": "x"}]}, "tool_call_id 'x'"),
    ],
)
def test_what_is_wrong_is_told(calling, options, said):
    answer = calling.post("/v1/chat/completions", **{"messages": HI, "tools": TOOLS, "max_tokens": 5, **options})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
    "{# the answer follows </think> #}"
)


@pytest.fixture(scope="module")
def thinking():
    """A server whose model thinks, or not, as its template is told."""
    lm = tiny_lm(byte_tokenizer(chat_template=THINKING))
    with serving(with_engine(lm)) as running:
        yield running


@pytest.mark.parametrize("opened", [False, True])
def test_thoughts_are_told_apart_from_the_answer(thinking, opened, monkeypatch):
    lm = thinking.service.served.lm
    add, text = lm.engine.add, ("" if opened else "<think>") + "Hm, </thin, yes.\n</think>\n\nIt rains."
    spec = ConstraintSpec(choices=(text,))
    monkeypatch.setattr(
        lm.engine,
        "add",
        lambda *of, constraint, **others: add(*of, constraint=compile_constraint(lm.tokenizer, spec), **others),
    )
    options = {"tools": None, "extra_body": {"chat_template_kwargs": {"enable_thinking": opened}}}
    answer = chat(thinking, **options)
    message = answer.choices[0].message
    assert (message.content, message.reasoning_content) == ("It rains.", "Hm, </thin, yes.")
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens
    assert put_together(chat(thinking, stream=True, **options)) == ("It rains.", "Hm, </thin, yes.", [], "stop")


def test_responses_tell_of_thoughts_as_items(thinking, monkeypatch):
    lm = thinking.service.served.lm
    add, spec = lm.engine.add, ConstraintSpec(choices=("<think>Hm.</think>It rains.",))
    monkeypatch.setattr(
        lm.engine,
        "add",
        lambda *of, constraint, **others: add(*of, constraint=compile_constraint(lm.tokenizer, spec), **others),
    )
    whole = thinking.client().responses.create(model="tiny", input="Hi", max_output_tokens=90)
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.output[0].content[0].text == "Hm."
    assert whole.output_text == "It rains."
    events = list(thinking.client().responses.create(model="tiny", input="Hi", max_output_tokens=90, stream=True))
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert thought == "Hm."
    items = [whole.output[1].model_dump(), {"role": "user", "content": "And now?"}]
    again = [whole.output[0].model_dump(exclude_none=True), *items]
    assert (
        thinking.client().responses.create(model="tiny", input=again, max_output_tokens=90).output_text == "It rains."
    )


def test_an_answer_of_a_given_form_is_all_content(thinking):
    options = {
        "tools": None,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": True}, "choices": ["yes", "no"]},
    }
    message = chat(thinking, **options).choices[0].message
    assert message.content in ("yes", "no")
    assert "reasoning_content" not in (message.model_extra or {})
