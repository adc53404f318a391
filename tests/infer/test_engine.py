"""The engine: greedy tokens equal to transformers', with processors too, when it stops, its log-probabilities, seeds,
and what it refuses."""

from dataclasses import replace

import pytest
import torch
import transformers

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.engine import Engine, EngineOptions
from vesalius.infer.intake import placement
from vesalius.infer.params import SamplingParams
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import RopeScaling
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


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[7], [11, 3]], "sequence_bias": [[[5], 2.0], [[8], -3.0]]},
        {"min_new_tokens": 9},
        {"repetition_penalty": 0.7, "no_repeat_ngram_size": 3, "min_new_tokens": 4, "sequence_bias": [[[9], 3.0]]},
    ],
)
def test_greedy_tokens_with_processors_equal_those_of_transformers(settings):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, bos_token_id=None, eos_token_id=None)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    ours = Transformer(read_config(config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    eos = ids(ours, max_tokens=3)[-1]
    expected = theirs.generate(
        torch.tensor([PROMPT]), max_new_tokens=40, do_sample=False, eos_token_id=eos, pad_token_id=0, **settings
    )[0, len(PROMPT) :].tolist()
    bias = {token: value for (token,), value in settings.pop("sequence_bias", [])}
    params = SamplingParams.of(max_tokens=40, logit_bias=bias, min_tokens=settings.pop("min_new_tokens", 0), **settings)
    assert [step.id for step in Engine(ours, (eos,)).stream(PROMPT, params)] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_top_logprobs_are_the_likeliest_tokens_before_every_processor(model, temperature):
    params = SamplingParams(max_tokens=5, temperature=temperature, seed=0, top_logprobs=3, presence_penalty=1.0)
    steps = list(Engine(model).stream(PROMPT, params))
    tokens = PROMPT + [step.id for step in steps]
    with torch.no_grad():
        best = model(torch.tensor([tokens]))[0].log_softmax(-1).topk(3)
    for place, step in enumerate(steps, start=len(PROMPT) - 1):
        assert list(step.top_logprobs) == best.indices[place].tolist()
        assert list(step.top_logprobs.values()) == pytest.approx(best.values[place].tolist(), abs=1e-4)
    assert next(Engine(model).stream(PROMPT, SamplingParams())).top_logprobs == {}


def test_presence_penalty_counts_what_was_generated(model):
    assert len(set(ids(model, max_tokens=60, presence_penalty=100.0))) == 60


class Packed(torch.nn.Module):
    """A matrix in whole numbers, as a quantised model has them: no weight that is a parameter."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.scale = float(weight.abs().max()) / 127
        self.register_buffer("blocks", (weight / self.scale).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.blocks.float() * self.scale).T


def test_a_model_whose_head_and_embedding_are_packed_generates(model):
    packed = Transformer(model.config).eval()
    packed.load_state_dict(model.state_dict())
    packed.lm_head = Packed(model.lm_head.weight.detach())
    assert placement(packed) == (torch.device("cpu"), torch.float32)
    assert len(ids(packed, max_tokens=5)) == 5


def test_the_cache_has_the_models_dtype(model):
    assert placement(Transformer(model.config).to(torch.bfloat16)) == (torch.device("cpu"), torch.bfloat16)


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


class Breaking:
    """A grammar that cannot go on: where it is asked, or where it is told."""

    finished = False

    def __init__(self, place: str) -> None:
        self.place, self.accepted = place, 0

    def prepare(self) -> None:
        pass

    def apply(self, scores: torch.Tensor) -> torch.Tensor:
        if self.place == "apply" and self.accepted == 2:
            raise VesaliusError("the grammar is too much")
        return scores

    def forced(self) -> list[int]:
        return []

    def accept(self, token: int) -> None:
        self.accepted += 1
        if self.place == "accept" and self.accepted == 3:
            raise VesaliusError("the grammar is too much")


@pytest.mark.parametrize("place", ["apply", "accept"])
def test_a_grammar_that_cannot_go_on_fails_its_own_sequence_only(model, place):
    engine, params = Engine(model), SamplingParams(max_tokens=8)
    [failing] = engine.add([9, 8], params, constraint=Breaking(place))
    [other] = engine.add(PROMPT, params)
    engine.run(other)
    assert other.ids == ids(model, max_tokens=8)
    assert (failing.state, len(failing.ids), str(failing.error)) == ("finished", 2, "the grammar is too much")
    assert not engine.has_work


@pytest.fixture
def read(model):
    """How many tokens the model read at each step so far."""
    counts: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].shape[1]))
    yield counts
    hook.remove()


@pytest.mark.parametrize(
    ("later", "first_reading"),
    [
        ([*PROMPT, 4, 4], 2),  # behind the earlier prompt
        ([*PROMPT[:3], 60, 61], 3),
        (PROMPT[:4], 2),  # the last is always read
        (PROMPT, 2),
        ([90, *PROMPT], 7),
    ],
)
def test_a_later_sequence_reads_only_what_an_earlier_one_has_not_read(model, read, later, first_reading):
    engine, params = Engine(model, options=EngineOptions(block_size=2)), SamplingParams(max_tokens=8)
    expected = [step.id for step in Engine(model).stream(later, params)]
    earlier = engine.stream(PROMPT, SamplingParams(max_tokens=4, logit_bias={4: -100.0}))
    assert len(list(earlier)) == 4
    read.clear()
    stream = engine.stream(later, params)
    assert [step.id for step in stream] == expected
    assert read == [first_reading] + [1] * 7
    assert stream.sequence.cached_tokens == len(later) - first_reading


def test_a_later_sequence_goes_on_behind_the_answer_of_an_earlier_one(model, read):
    engine, params = Engine(model, options=EngineOptions(block_size=1)), SamplingParams(max_tokens=8)
    earlier = engine.stream(PROMPT, params)
    later = [*PROMPT, *(step.id for step in earlier), 3, 1]
    expected = [step.id for step in Engine(model).stream(later, params)]
    read.clear()
    assert [step.id for step in engine.stream(later, params)] == expected
    assert read[0] == 3  # the earlier one's last token was never read


def test_nothing_is_shared_where_that_is_switched_off(model, read):
    engine = Engine(model, options=EngineOptions(block_size=2, prefix_caching=False))
    for _ in range(2):
        read.clear()
        list(engine.stream(PROMPT, SamplingParams(max_tokens=2)))
        assert read == [len(PROMPT), 1]


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
    for temperature in (0.0, 1.0):
        with pytest.raises(VesaliusError, match="not finite"):
            next(Engine(broken).stream(PROMPT, SamplingParams(temperature=temperature)))


def test_bad_words_as_texts_are_no_work_of_the_engine(model):
    with pytest.raises(ValueError, match="bad_words_ids"):
        Engine(model).add(PROMPT, SamplingParams(bad_words=("a",)))


def test_a_model_that_would_drop_out_is_refused(model):
    training = Transformer(replace(model.config, dropout=0.1)).train()
    with pytest.raises(ValueError, match="eval"):
        next(Engine(training).stream(PROMPT, SamplingParams()))


def test_a_text_that_outgrows_its_frequencies_is_read_again():
    factors = tuple(1.0 + 3 * i for i in range(4))
    scaling = RopeScaling(
        kind="longrope", original_max_position_embeddings=16, short_factor=(1.0,) * 4, long_factor=factors
    )
    model = Transformer(ModelConfig.from_dict(SIZES | {"rope_scaling": scaling})).eval()
    tokens = list(PROMPT)
    for _ in range(20):  # without a cache, each step turns the whole text as its length asks
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert ids(model, max_tokens=20) == tokens[len(PROMPT) :]
    engine = Engine(model)
    list(engine.stream(tokens, SamplingParams(max_tokens=1)))
    short = engine.stream(PROMPT, SamplingParams(max_tokens=3))
    assert [step.id for step in short] == tokens[len(PROMPT) :][:3]
