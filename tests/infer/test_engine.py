"""The engine: greedy tokens equal to transformers', when it stops, its log-probabilities, seeds, and what it
refuses."""

from dataclasses import replace

import pytest
import torch
import transformers

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.engine import Engine
from vesalius.infer.sampling import SamplingParams
from vesalius.models.config import ModelConfig
from vesalius.models.families import read_config
from vesalius.models.transformer import Transformer

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.5,  # the default is so narrow that a random model repeats one token
}
PROMPT = [5, 11, 3, 7, 7, 2]


@pytest.fixture(scope="module")
def model() -> Transformer:
    config = ModelConfig.from_dict(SIZES | {"tie_word_embeddings": False})
    return Transformer(config).eval()


def ids(model: Transformer, **settings) -> list[int]:
    return [step.id for step in Engine(model).stream(PROMPT, SamplingParams(**settings))]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("config_class", [transformers.LlamaConfig, transformers.Qwen3Config])
def test_greedy_tokens_equal_those_of_transformers(config_class, tied):
    torch.manual_seed(0)
    config = config_class(**SIZES, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    ours = Transformer(read_config(config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    expected = theirs.generate(torch.tensor([PROMPT]), max_new_tokens=64, do_sample=False)[0, len(PROMPT) :].tolist()
    assert len(set(expected)) > 10
    assert ids(ours, max_tokens=64) == expected


def test_logprobs_are_the_models_own_whatever_the_settings(model):
    steps = list(Engine(model).stream(PROMPT, SamplingParams(max_tokens=20, temperature=0.5, top_k=5, seed=1)))
    tokens = PROMPT + [step.id for step in steps]
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens]))[0].log_softmax(-1)
    for place, step in enumerate(steps, start=len(PROMPT)):
        assert step.logprob == pytest.approx(float(logprobs[place - 1, step.id]), abs=1e-4)


def test_it_stops_after_max_tokens(model):
    steps = list(Engine(model).stream(PROMPT, SamplingParams(max_tokens=3)))
    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_it_stops_at_an_end_token_which_is_the_last(model):
    plain = ids(model, max_tokens=40)
    end = plain[10]
    steps = list(Engine(model, eos_ids=(end,)).stream(PROMPT, SamplingParams(max_tokens=40)))
    assert [step.id for step in steps] == plain[: plain.index(end) + 1]
    assert steps[-1].finish_reason == "stop"


def test_it_stops_where_the_context_is_full(model):
    steps = list(Engine(model).stream(PROMPT, SamplingParams(max_tokens=10_000)))
    assert len(PROMPT) + len(steps) == 128
    assert steps[-1].finish_reason == "length"


def test_equal_seeds_give_equal_tokens_and_other_seeds_others(model):
    a, b, c = (ids(model, max_tokens=30, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert a == b != c


def test_without_a_seed_every_generation_differs(model):
    assert ids(model, max_tokens=30, temperature=2.0) != ids(model, max_tokens=30, temperature=2.0)


def test_the_global_random_state_is_not_touched(model):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ids(model, max_tokens=3, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_caller_is_not_left_in_inference_mode(model):
    stream = Engine(model).stream(PROMPT, SamplingParams(max_tokens=3))
    next(stream)
    assert not torch.is_inference_mode_enabled()


def test_two_sequences_may_take_turns(model):
    engine, params = Engine(model), SamplingParams(max_tokens=20)
    alone = [[step.id for step in engine.stream(prompt, params)] for prompt in (PROMPT, [9, 8])]
    turns = zip(engine.stream(PROMPT, params), engine.stream([9, 8], params), strict=True)
    together = [(first.id, second.id) for first, second in turns]
    assert [list(column) for column in zip(*together, strict=True)] == alone


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "no tokens"),
        ([1] * 128, "128 tokens.*context is 128"),
        ([1, 97], "token id 97 is not in the vocabulary of 97"),
        ([-1], "token id -1"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(model, prompt, message):
    with pytest.raises(UserError, match=message):
        next(Engine(model).stream(prompt, SamplingParams()))


def test_broken_weights_are_told_and_not_sampled_from(model):
    broken = Transformer(model.config).eval()
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(VesaliusError, match="not finite"):
        next(Engine(broken).stream(PROMPT, SamplingParams()))


def test_a_model_that_would_drop_out_is_refused(model):
    training = Transformer(replace(model.config, dropout=0.1)).train()
    with pytest.raises(ValueError, match="eval"):
        next(Engine(training).stream(PROMPT, SamplingParams()))
