"""Completions through OpenAI's own client."""

import pytest
from tiny_server import Running


def complete(running: Running, **options):
    return running.client().completions.create(**{"model": "tiny", "prompt": "ab", "max_tokens": 20, **options})


def put_together(chunks):
    choices = {}
    for chunk in chunks:
        for choice in chunk.choices:
            told = choices.setdefault(choice.index, {"text": "", "tokens": [], "offsets": [], "finish_reason": None})
            told["text"] += choice.text
            told["tokens"] += choice.logprobs.tokens if choice.logprobs else []
            told["offsets"] += choice.logprobs.text_offset if choice.logprobs else []
            told["finish_reason"] = choice.finish_reason or told["finish_reason"]
    return choices


def test_a_completion_is_what_the_model_generates(running, lm):
    expected = lm.generate("ab", max_tokens=20)
    answer = complete(running, temperature=0)
    assert answer.choices[0].text == expected.text
    assert answer.usage.completion_tokens == expected.usage.completion_tokens


def test_without_max_tokens_there_are_sixteen(running):
    assert (
        running.client()
        .completions.create(model="tiny", prompt="ab", seed=1, logit_bias={"0": -100, "1": -100, "2": -100})
        .usage.completion_tokens
        == 16
    )


def test_several_prompts_are_answered_in_their_order(running, lm):
    ids = lm.prompt_ids("cd")
    texts = [choice.text for choice in complete(running, prompt=["ab", "cd"], n=2, seed=3).choices]
    assert len(texts) == 4
    assert texts[:2] == [choice.text for choice in complete(running, prompt="ab", n=2, seed=3).choices]
    assert texts[2:] == [choice.text for choice in complete(running, prompt=[ids], n=2, seed=3).choices]
    assert texts[2:] == [choice.text for choice in complete(running, prompt=ids, n=2, seed=3).choices]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"seed": 1, "n": 2, "logprobs": 3},
        {"seed": 2, "echo": True, "logprobs": 2},
        {"seed": 3, "stop": "a"},
    ],
)
def test_a_stream_says_what_a_whole_completion_says(running, options):
    whole = complete(running, prompt=["ab", "é"], **options)
    streamed = put_together(complete(running, prompt=["ab", "é"], stream=True, **options))
    for choice in whole.choices:
        assert streamed[choice.index]["text"] == choice.text
        assert streamed[choice.index]["finish_reason"] == choice.finish_reason
        assert streamed[choice.index]["tokens"] == (choice.logprobs.tokens if choice.logprobs else [])
        assert streamed[choice.index]["offsets"] == (choice.logprobs.text_offset if choice.logprobs else [])


def test_an_echo_scores_the_prompt(running, lm):
    answer = complete(running, prompt="A text to score", max_tokens=0, echo=True, logprobs=1).choices[0]
    ids = lm.prompt_ids("A text to score")
    assert answer.text == "A text to score"
    assert answer.logprobs.token_logprobs[0] is None
    assert answer.logprobs.token_logprobs[1:] == pytest.approx(lm.score(ids), abs=1e-4)
    assert answer.logprobs.tokens == ["<|endoftext|>", *"A text to score"]
    assert answer.logprobs.text_offset == [0, *range(15)]
    assert answer.finish_reason == "length"


def test_logprobs_name_the_likeliest_tokens(running, lm):
    answer = complete(running, temperature=0, logprobs=2).choices[0]
    expected = lm.generate("ab", max_tokens=20, top_logprobs=2)
    count = len(answer.logprobs.tokens)
    assert [list(top.values()) for top in answer.logprobs.top_logprobs] == [
        pytest.approx(list(top.values()), abs=1e-4) for top in expected.top_logprobs[:count]
    ]
    assert [next(iter(top)) for top in answer.logprobs.top_logprobs] == answer.logprobs.tokens


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of = 3"),
        ({"max_tokens": 0}, "asks for nothing"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [999]}, "token id 999"),
        ({"prompt": [["a"]]}, "prompt"),
        ({"prompt": ["a"] * 100, "n": 2}, "at most"),
        ({"prompt": ["ab", "x" * 600]}, "context is 512"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_what_is_wrong_is_told(running, options, said):
    answer = running.post("/v1/completions", **{"model": "tiny", "prompt": "ab", **options})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    running.wait_until(lambda: running.service.open == 0)
