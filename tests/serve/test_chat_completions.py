"""Chats through OpenAI's own client: every option, and that a stream says what a whole answer says."""

import json
import re

import jsonschema
import openai
import pytest
from tiny_server import CONTEXT, Running

from vesalius.tokenizers.chat import encode_chat

HI = [{"role": "user", "content": "Hi"}]


def chat(running: Running, **options):
    return running.client().chat.completions.create(**{"model": "tiny", "messages": HI, "max_tokens": 24, **options})


def put_together(chunks):
    """The choices that the chunks of a stream add up to, and its usage."""
    choices, usage = {}, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            told = choices.setdefault(choice.index, {"content": "", "logprobs": [], "finish_reason": None})
            told["content"] += choice.delta.content or ""
            told["logprobs"] += choice.logprobs.content if choice.logprobs else []
            told["finish_reason"] = choice.finish_reason or told["finish_reason"]
    return choices, usage


def test_an_answer_is_what_the_model_generates(running, lm):
    answer = chat(running, temperature=0)
    expected = lm.generate(HI, max_tokens=24)
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
    assert answer.usage.total_tokens == expected.usage.total_tokens
    assert answer.object == "chat.completion"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"seed": 5},
        {"seed": 5, "n": 3},
        {"seed": 6, "logprobs": True, "top_logprobs": 3},
        {"seed": -7, "stop": ["e", "a"]},
        {"seed": 8, "top_p": 0.5, "presence_penalty": 1.5, "frequency_penalty": -1.0},
        {"seed": 9, "extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.3, "min_tokens": 3}},
    ],
)
def test_a_stream_says_what_a_whole_answer_says(running, options):
    whole = chat(running, **options)
    streamed = chat(running, stream=True, stream_options={"include_usage": True}, **options)
    choices, usage = put_together(streamed)
    assert len(choices) == options.get("n", 1)
    for choice in whole.choices:
        told = choices[choice.index]
        assert told["content"] == choice.message.content
        assert told["finish_reason"] == choice.finish_reason
        assert told["logprobs"] == (choice.logprobs.content if choice.logprobs else [])
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_n_answers_are_drawn_with_one_seed_after_another(running, lm):
    answers = chat(running, n=3, seed=5, temperature=1.0)
    single = [lm.generate(HI, max_tokens=24, temperature=1.0, seed=seed).text for seed in (5, 6, 7)]
    assert [choice.message.content for choice in answers.choices] == single


def test_logprobs_are_the_models_and_cover_every_token_of_the_text(running, lm):
    answer = chat(running, temperature=0, logprobs=True, top_logprobs=4)
    expected = lm.generate(HI, max_tokens=24, top_logprobs=4)
    entries = answer.choices[0].logprobs.content
    assert [entry.logprob for entry in entries] == pytest.approx(expected.logprobs[: len(entries)], abs=1e-4)
    data = b"".join(bytes(entry.bytes) for entry in entries)
    assert data.decode("utf-8", "replace") == answer.choices[0].message.content
    assert all(len(entry.top_logprobs) == 4 for entry in entries)
    assert all(entry.top_logprobs[0].bytes == entry.bytes for entry in entries)  # greedy takes the likeliest


def test_a_stop_text_ends_the_answer_and_frees_its_memory(running):
    text = chat(running, temperature=0, max_tokens=60).choices[0].message.content
    stop = text[5:7]
    answer = chat(running, temperature=0, max_tokens=60, stop=stop)
    assert answer.choices[0].message.content == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    running.wait_until(lambda: running.blocks_used == 0)


def test_a_bias_makes_a_token_certain(running, lm):
    token = lm.tokenizer.encode("Q")[0]
    assert chat(running, logit_bias={str(token): 100}, max_tokens=5).choices[0].message.content == "QQQQQ"


def test_an_answer_follows_a_json_schema(running):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    for seed in range(3):
        answer = chat(running, response_format=form, seed=seed, max_tokens=200)
        jsonschema.validate(json.loads(answer.choices[0].message.content), schema)
        choices, _ = put_together(chat(running, response_format=form, seed=seed, max_tokens=200, stream=True))
        assert choices[0]["content"] == answer.choices[0].message.content


def test_an_answer_is_a_json_object(running):
    answer = chat(running, response_format={"type": "json_object"}, seed=1, max_tokens=400)
    assert answer.choices[0].finish_reason == "length" or isinstance(
        json.loads(answer.choices[0].message.content), dict
    )
    assert answer.choices[0].message.content.lstrip().startswith("{")


def test_max_completion_tokens_is_max_tokens(running):
    answer = running.client().chat.completions.create(
        model="tiny", messages=HI, max_completion_tokens=7, temperature=0, logit_bias={"2": -100, "0": -100}
    )
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"


def test_without_a_limit_the_context_is_the_limit(running):
    answer = running.client().chat.completions.create(
        model="tiny", messages=HI, logit_bias={"2": -100, "0": -100, "1": -100}, seed=1
    )
    assert answer.usage.total_tokens == CONTEXT


def test_parts_of_a_content_are_joined(running):
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    in_parts = chat(running, messages=[{"role": "user", "content": parts}], temperature=0)
    assert in_parts.choices[0].message.content == chat(running, temperature=0).choices[0].message.content


def test_a_second_chat_finds_its_beginning_in_the_cache(running):
    messages = [{"role": "user", "content": "A question that is long enough to fill a block of the cache."}]
    chat(running, messages=messages, max_tokens=1)
    again = chat(running, messages=messages, max_tokens=1)
    assert again.usage.prompt_tokens_details.cached_tokens >= 16


def test_render_shows_what_is_read(running, lm):
    rendered = running.post("/render", messages=HI).json()
    ids = encode_chat(lm.tokenizer, HI, add_generation_prompt=True).ids
    assert [token["id"] for token in rendered["tokens"]] == ids
    assert rendered["text"] == "".join(token["text"] for token in rendered["tokens"]) == lm.tokenizer.chat(HI)
    assert [token["text"] for token in rendered["tokens"] if token["special"]] == [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_start|>",
    ]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"model": "gpt-9"}, 404, "'gpt-9' is not served here: ask for 'tiny'"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "usr", "content": "Hi"}]}, 400, "did you mean 'user'"),
        ({"messages": [{"role": "user"}]}, 400, "has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "this model reads text"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "context is 512"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": "5"}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature = -1"),
        ({"temperature": True}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p = 0"),
        ({"n": 0}, 400, "n:"),
        ({"n": 1000}, 400, "n = 1000"),
        ({"top_logprobs": 21, "logprobs": True}, 400, "top_logprobs"),
        ({"logit_bias": {"999": 1}}, 400, "token 999 is not in the vocabulary"),
        ({"logit_bias": {"a": 1}}, 400, "logit_bias"),
        ({"stop": ["a"] * 33}, 400, "stop"),
        ({"stop": [""]}, 400, "stop"),
        ({"temprature": 1}, 400, "did you mean 'temperature'?"),
        ({"tool_choice": "required"}, 400, "there are no tools"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "knows no tools"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 400, "no option 'enable_thinking'"),
        ({"reasoning_effort": "high"}, 400, "no option 'reasoning_effort'"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
            400,
            "",
        ),
        ({"response_format": {"type": "xml"}}, 400, "response_format"),
        ({"modalities": ["audio"]}, 400, "modalities"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_told_in_openais_shape(running, options, status, said, stream):
    answer = running.post("/v1/chat/completions", **{"model": "tiny", "messages": HI, "stream": stream, **options})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]
    assert len(error["message"]) < 1000


def test_the_client_raises_its_own_errors(running):
    with pytest.raises(openai.NotFoundError) as raised:
        chat(running, model="gpt-9")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        chat(running, messages=[{"role": "user", "content": "x" * 600}])


@pytest.mark.parametrize(
    ("form", "expected"), [({"regex": "[a-c]{3}z"}, r"[a-c]{3}z"), ({"choices": ["yes", "no"]}, "yes|no")]
)
def test_an_answer_has_a_form_beyond_openais(running, form, expected):
    assert re.fullmatch(expected, chat(running, seed=3, extra_body=form).choices[0].message.content)
    texts = running.client().completions.create(
        model="tiny", prompt=["ab", "cd"], n=2, seed=3, max_tokens=20, extra_body=form
    )
    assert len(texts.choices) == 4
    assert all(re.fullmatch(expected, choice.text) for choice in texts.choices)
