"""Who drafts, by name."""

import pytest
from engine_models import SIZES, tiny_model
from gguf_models import TOKENIZER

from vesalius.core.errors import UserError
from vesalius.hub.directory import save_model
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.params import SamplingParams
from vesalius.infer.speculative.draft_model import DraftModel
from vesalius.infer.speculative.heads import Heads, MultiTokenHeads
from vesalius.infer.speculative.names import proposer_named
from vesalius.infer.speculative.ngram import Lookup
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

WORDS = {"vocab_size": TOKENIZER.vocab_size}


def test_each_kind_has_a_name(tmp_path):
    model = Transformer(ModelConfig.from_dict(SIZES | WORDS)).eval()
    smaller = Transformer(ModelConfig.from_dict(SIZES | WORDS | {"num_hidden_layers": 1})).eval()
    save_model(tmp_path / "small", smaller, TOKENIZER)
    MultiTokenHeads(32, 2).save(tmp_path)
    assert isinstance(proposer_named("ngram", model), Lookup)
    assert isinstance(proposer_named(f"heads:{tmp_path}", model), Heads)
    for name in (f"draft:{tmp_path / 'small'}", "early_exit:1"):
        proposer = proposer_named(name, model)
        assert isinstance(proposer, DraftModel)
        assert len(proposer.model.model.layers) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ngrams", "unknown speculation 'ngrams', did you mean 'ngram'"),
        ("magic", r"\(forms: ngram, draft:MODEL"),
        ("ngram:3", "expected one of ngram"),
        ("draft", "expected one of ngram, draft:MODEL"),
        ("early_exit:", "expected one of"),
        ("early_exit:half", "expected a number of layers"),
        ("early_exit:2", "has 2 layers, give a number from 1 to 1"),
        ("heads:nowhere", "no heads at nowhere"),
        ("draft:nowhere", "nowhere"),
    ],
)
def test_names_that_mean_nothing_are_one_line(name, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        proposer_named(name, tiny_model())
    assert "\n" not in str(error.value)


def test_an_engines_options_name_it_and_say_how_much():
    model, prompt = tiny_model(), [5, 6, 7] * 8
    engine = Engine(model, options=EngineOptions(speculation="ngram", speculated=3))
    assert engine.speculation.most == 3
    tokens = [step.id for step in engine.stream(prompt, SamplingParams(max_tokens=30))]
    assert tokens == [step.id for step in Engine(model).stream(prompt, SamplingParams(max_tokens=30))]
    with pytest.raises(UserError, match="speculated = 63, expected a whole number from 1 to 62"):
        EngineOptions(speculated=63)
    with pytest.raises(UserError, match="unknown speculation"):
        Engine(model, options=EngineOptions(speculation="n-gram"))
