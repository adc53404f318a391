"""A server whose further model names are adapters: listed, chosen by "model", told in answers, refused in one line."""

from collections.abc import Iterator

import pytest
import torch
from adapting import stir
from tiny_server import OPTIONS, Running, byte_tokenizer, serving, tiny_lm

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.adapt.switch import switch
from vesalius.core.errors import UserError
from vesalius.hub.adapters import save_adapter
from vesalius.infer.language_model import LanguageModel
from vesalius.serve.options import read_adapters
from vesalius.serve.run import open_served
from vesalius.serve.service import Served

NAMES = ("docs", "poems")
ASK = {"prompt": "abc", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A model with two adapters, none in use for every text."""
    made = tiny_lm(byte_tokenizer())
    for seed, name in enumerate(NAMES):
        add_lora(made.model, LoraConfig(lora_r=4), name, seed=seed)
        stir(made.model, name, seed)
    switch(made.model)
    return LanguageModel(made.model, made.tokenizer, options=OPTIONS)


@pytest.fixture(scope="module")
def running(lm: LanguageModel) -> Iterator[Running]:
    with serving(lm, variants=tuple(Served(name, lm, adapter=name) for name in NAMES)) as server:
        yield server


def test_adapters_are_further_models(running):
    assert [model.id for model in running.client().models.list()] == ["tiny", *NAMES]
    assert running.client().models.retrieve("poems").id == "poems"


def test_the_model_of_a_request_says_which_adapter_answers(running, lm):
    answers = {}
    for name in ("tiny", *NAMES):
        done = running.client().completions.create(model=name, **ASK)
        assert done.model == name
        answers[name] = done.choices[0].text
    assert len(set(answers.values())) == 3
    for name in NAMES:
        assert answers[name] == lm.generate("abc", max_tokens=8, temperature=0.0, adapter=name).text
    assert answers["tiny"] == lm.generate("abc", max_tokens=8, temperature=0.0).text


def test_chats_responses_scores_and_embeddings_have_it_too(running):
    client, found = running.client(), {}
    for name in ("tiny", *NAMES):
        chat = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "abc"}], max_tokens=8, temperature=0, logprobs=True
        )
        scored = client.completions.create(model=name, prompt="abc", max_tokens=0, echo=True, logprobs=0)
        vector = client.embeddings.create(model=name, input="abc").data[0].embedding
        response = client.responses.create(model=name, input="abc", max_output_tokens=16, temperature=0)
        found[name] = (
            tuple(entry.logprob for entry in chat.choices[0].logprobs.content),
            tuple(scored.choices[0].logprobs.token_logprobs[1:]),
            tuple(vector),
            response.output_text,
        )
    for several in zip(*found.values(), strict=True):
        assert len(set(several)) == 3


def test_a_name_that_is_none_is_told_all_that_are(running):
    refused = running.post("/v1/completions", model="peoms", **ASK)
    assert refused.status_code == 404
    assert "ask for 'tiny' or 'docs' or 'poems'" in refused.json()["error"]["message"]


def test_adapters_open_around_their_base_by_name(lm, tmp_path):
    base = tiny_lm(byte_tokenizer())
    base.save(tmp_path / "base")
    for name in NAMES:
        save_adapter(tmp_path / name, lm.model, name)
    served = open_served(str(tmp_path / "base"), OPTIONS, adapters={name: str(tmp_path / name) for name in NAMES})
    assert [one.name for one in served.all] == ["base", *NAMES]
    ids = list(range(40, 60))
    for one in served.all:
        ours = one.lm.engine.run(one.lm.engine.score(ids, adapter=one.adapter)).logprobs
        truth = lm.engine.run(lm.engine.score(ids, adapter=one.adapter)).logprobs
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(truth), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="'base' is what clients call the model itself"):
        open_served(str(tmp_path / "base"), OPTIONS, adapters={"base": str(tmp_path / "docs")})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["docs"], "adapter 'docs' is not of the form NAME=DIRECTORY"),
        (["=runs/lora"], "is not of the form NAME=DIRECTORY"),
        (["a=x", "a=y"], "two adapters are called 'a'"),
    ],
)
def test_what_is_typed_wrong_is_one_line(given, message):
    with pytest.raises(UserError, match=message):
        read_adapters(given)


def test_an_adapter_around_an_adapter_is_refused(lm, tmp_path):
    base = tiny_lm(byte_tokenizer())
    base.save(tmp_path / "base")
    save_adapter(tmp_path / "docs", lm.model, "docs", base=tmp_path / "base")
    with pytest.raises(UserError, match="has an adapter around it already: give its base"):
        LanguageModel.load(tmp_path / "docs", adapters={"more": tmp_path / "docs"})
