"""Tokens of texts and conversations."""


def test_a_text_there_and_back(running, lm):
    told = running.post("/tokenize", model="tiny", prompt="é<|im_end|>").json()
    assert told["tokens"] == lm.prompt_ids("é<|im_end|>")
    assert told["count"] == len(told["tokens"])
    assert told["max_model_len"] == 512
    assert running.post("/detokenize", tokens=told["tokens"]).json()["prompt"] == "<|endoftext|>é<|im_end|>"


def test_without_special_tokens(running, lm):
    assert running.post("/tokenize", prompt="ab", add_special_tokens=False).json()["tokens"] == lm.tokenizer.encode(
        "ab"
    )


def test_messages_are_tokenized_as_the_model_reads_them(running, lm):
    messages = [{"role": "user", "content": "Hi"}]
    assert running.post("/tokenize", messages=messages).json()["tokens"] == lm.prompt_ids(messages)


def test_neither_and_both_are_refused(running):
    assert running.post("/tokenize").status_code == 400
    assert running.post("/tokenize", prompt="a", messages=[{"role": "user", "content": "a"}]).status_code == 400


def test_unknown_tokens_are_refused(running):
    answer = running.post("/detokenize", tokens=[5, 999])
    assert answer.status_code == 400
    assert "token 999" in answer.json()["error"]["message"]


def test_models_tell_their_context_and_settings(running):
    card = running.client().models.retrieve("tiny")
    assert card.context_length == card.max_model_len == 512
    assert card.sampling == {"temperature": 1.0}
    assert [model.id for model in running.client().models.list()] == ["tiny"]
    with running.http() as http:
        assert http.get("/v1/models/other").status_code == 404
