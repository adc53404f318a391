"""Embeddings through OpenAI's own client, which asks for base64 and reads it."""

import pytest
import torch
from tiny_server import serving, with_engine


def test_a_vector_is_the_mean_of_the_last_hidden_states_at_unit_length(running, lm):
    texts = ["ab", "a longer text"]
    answer = running.client().embeddings.create(model="tiny", input=texts)
    for text, entry in zip(texts, answer.data, strict=True):
        with torch.no_grad():
            hidden = lm.model.model(torch.tensor([lm.prompt_ids(text)]))[0]  # (T, D)
        mean = hidden.mean(0)
        assert entry.embedding == pytest.approx((mean / mean.norm()).tolist(), abs=1e-5)
    assert answer.usage.prompt_tokens == sum(len(lm.prompt_ids(text)) for text in texts)


def test_both_encodings_say_the_same(running, lm):
    client = running.client()
    numbers = client.embeddings.create(model="tiny", input="ab", encoding_format="float").data[0].embedding
    assert client.embeddings.create(model="tiny", input=[lm.prompt_ids("ab")]).data[0].embedding == pytest.approx(
        numbers
    )


def test_more_texts_than_are_answered_at_once_keep_their_order(running):
    texts = [f"text {i}" for i in range(300)]
    vectors = [entry.embedding for entry in running.client().embeddings.create(model="tiny", input=texts).data]
    assert len(vectors) == 300
    assert vectors[299] == pytest.approx(
        running.client().embeddings.create(model="tiny", input="text 299").data[0].embedding, abs=1e-5
    )


def test_a_long_list_fits_into_a_short_queue(lm):
    with serving(with_engine(lm), max_queue=0) as running:
        answer = running.client().embeddings.create(model="tiny", input=[f"text {i}" for i in range(20)])
    assert [entry.index for entry in answer.data] == list(range(20))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"input": []}, "input"), ({"dimensions": 8}, "expected 32"), ({"input": "x" * 600}, "context")],
)
def test_what_is_wrong_is_told(running, options, said):
    answer = running.post("/v1/embeddings", **{"model": "tiny", "input": "ab", **options})
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
