"""Beam search: beams and scores equal to transformers', whatever ends them."""

from collections import Counter

import pytest
import torch
import transformers

from vesalius.core.errors import UserError, VesaliusError
from vesalius.infer.beam_search import Beam
from vesalius.infer.engine import Engine
from vesalius.infer.params import SamplingParams
from vesalius.models.families import read_config
from vesalius.models.transformer import Transformer

PROMPT = [5, 11, 3, 7, 7, 2]
V = 97


def pair(initializer_range: float) -> tuple[transformers.PreTrainedModel, Transformer]:
    """transformers' model and ours with its weights."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=initializer_range,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    ours = Transformer(read_config(config.to_dict())).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.fixture(scope="module", params=[0.1, 0.4], ids=["flat", "sharp"])
def models(request) -> tuple[transformers.PreTrainedModel, Transformer]:
    return pair(request.param)


def expected(model: transformers.PreTrainedModel, eos: list[int], **options) -> list[tuple[list[int], float]]:
    """Ids and score of every beam of transformers."""
    done = model.generate(
        torch.tensor([PROMPT]),
        do_sample=False,
        num_return_sequences=options["num_beams"],
        return_dict_in_generate=True,
        output_scores=True,
        eos_token_id=eos or None,
        pad_token_id=eos[0] if eos else 0,
        **options,
    )
    answers = [row[len(PROMPT) :].tolist() for row in done.sequences]
    ends = [next((i + 1 for i, token in enumerate(answer) if token in eos), len(answer)) for answer in answers]
    return [
        (answer[:end], float(score)) for answer, end, score in zip(answers, ends, done.sequences_scores, strict=True)
    ]


def scores(wanted: list[tuple[list[int], float]]) -> object:
    """What equals these scores up to the rounding of float32, which theirs are."""
    return pytest.approx([score for _, score in wanted], rel=1e-6, abs=1e-5)


def found(model: Transformer, eos: list[int], **options) -> list[Beam]:
    options["max_tokens"] = options.pop("max_new_tokens")
    return Engine(model, tuple(eos)).beams(PROMPT, SamplingParams.of(**options))


@pytest.fixture(scope="module")
def likely(models) -> list[int]:
    """Tokens that the model says often, the most frequent first: as end tokens they end beams at different lengths."""
    engine = Engine(models[1])
    said = Counter(
        step.id
        for seed in range(20)
        for step in engine.stream(PROMPT, SamplingParams(max_tokens=12, temperature=0.7, seed=seed))
    )
    return [token for token, _ in said.most_common(3)]


@pytest.mark.parametrize(("ends", "num_beams"), [(0, 4), (1, 2), (3, 5)])
@pytest.mark.parametrize(
    ("early_stopping", "length_penalty"), [(False, 1.0), (True, 1.0), ("never", 1.0), (False, 0.0), ("never", -0.7)]
)
def test_beams_and_scores_equal_those_of_transformers(models, ends, num_beams, early_stopping, length_penalty, likely):
    theirs, ours = models
    eos = sorted(likely[:ends])
    options = {
        "num_beams": num_beams,
        "max_new_tokens": 14,
        "early_stopping": early_stopping,
        "length_penalty": length_penalty,
    }
    wanted, beams = expected(theirs, eos, **options), found(ours, eos, **options)
    assert [beam.ids for beam in beams] == [ids for ids, _ in wanted]
    assert [beam.score for beam in beams] == scores(wanted)


@pytest.mark.parametrize(
    "adjusting",
    [
        {"repetition_penalty": 1.4},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[7], [11, 3], [40, 41]]},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    ],
)
def test_processors_change_beams_as_in_transformers(models, adjusting, likely):
    theirs, ours = models
    eos = sorted(likely[:1])
    options = {"num_beams": 4, "max_new_tokens": 20} | adjusting
    wanted, beams = expected(theirs, eos, **options), found(ours, eos, **options)
    assert [beam.ids for beam in beams] == [ids for ids, _ in wanted]
    assert [beam.score for beam in beams] == scores(wanted)


def test_min_tokens_delays_the_end_as_in_transformers(models, likely):
    theirs, ours = models
    eos = sorted(likely[:3])
    options = {"num_beams": 3, "max_new_tokens": 20}
    wanted = expected(theirs, eos, **options, min_new_tokens=8)
    beams = found(ours, eos, **options, min_tokens=8)
    assert [beam.ids for beam in beams] == [ids for ids, _ in wanted]
    assert min(len(beam.ids) for beam in beams) > 8


def test_a_context_that_ends_before_the_answer_limits_it(models):
    theirs, ours = models
    wanted = expected(theirs, [], num_beams=3, max_new_tokens=64 - len(PROMPT))
    beams = found(ours, [], num_beams=3, max_new_tokens=500)
    assert [beam.ids for beam in beams] == [ids for ids, _ in wanted]
    assert not any(beam.ended for beam in beams)


def test_beams_of_every_answer_find_the_likeliest_of_all():
    """With as many beams as there are answers of two tokens nothing is lost, so that the first is the best there is."""
    _, model = pair(0.4)
    tokens = torch.tensor([[*PROMPT, first] for first in range(V)])
    with torch.no_grad():
        first = model(tokens[:1, :-1])[0, -1].log_softmax(-1)
        both = first[:, None] + model(tokens)[:, -1].log_softmax(-1)  # (V, V)
    beams = found(model, [], num_beams=V, max_new_tokens=2, length_penalty=0.0)
    best, places = both.flatten().topk(10)
    assert [beam.ids for beam in beams[:10]] == [[int(i) // V, int(i) % V] for i in places]
    assert [beam.score for beam in beams[:10]] == pytest.approx(best.tolist(), abs=1e-4)


def test_one_beam_is_the_greedy_answer(models):
    _, model = models
    greedy = [step.id for step in Engine(model).stream(PROMPT, SamplingParams(max_tokens=16))]
    assert [beam.ids for beam in found(model, [], num_beams=1, max_new_tokens=16)] == [greedy]


def test_a_beam_tells_the_models_own_logprobs_and_whether_it_ended(models, likely):
    _, model = models
    eos = sorted(likely[:1])
    for beam in found(model, eos, num_beams=4, max_new_tokens=12):
        with torch.no_grad():
            logprobs = model(torch.tensor([PROMPT + beam.ids]))[0].log_softmax(-1)
        own = [float(logprobs[len(PROMPT) - 1 + i, token]) for i, token in enumerate(beam.ids)]
        assert beam.logprobs == pytest.approx(own, abs=1e-4)
        assert beam.score == pytest.approx(sum(own) / len(own), abs=1e-4)
        assert beam.ended is (beam.ids[-1] in eos)


def test_beams_cannot_be_streamed(models):
    with pytest.raises(UserError, match="cannot be streamed"):
        Engine(models[1]).stream(PROMPT, SamplingParams(num_beams=2))


def test_broken_weights_are_told():
    _, model = pair(0.1)
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(VesaliusError, match="not finite"):
        Engine(model).beams(PROMPT, SamplingParams(num_beams=2))
