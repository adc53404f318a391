"""Sampling: each processor equal to transformers' on random logits, the draw's frequencies, and what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vesalius.core.errors import UserError
from vesalius.infer import sampling
from vesalius.infer.sampling import SamplingOptions, SamplingParams, process, sample

IDS = torch.zeros(3, 1, dtype=torch.long)


def logits(seed: int, vocabulary: int = 50) -> torch.Tensor:
    return torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda s: sampling.temperature(s, 0.7), TemperatureLogitsWarper(0.7)),
        (lambda s: sampling.top_k(s, 5), TopKLogitsWarper(5)),
        (lambda s: sampling.top_k(s, 500), TopKLogitsWarper(500)),
        (lambda s: sampling.top_p(s, 0.8), TopPLogitsWarper(0.8)),
        (lambda s: sampling.top_p(s, 1e-6), TopPLogitsWarper(1e-6)),
        (lambda s: sampling.min_p(s, 0.1), MinPLogitsWarper(0.1)),
        (lambda s: sampling.min_p(s, 1.0), MinPLogitsWarper(1.0)),
    ],
)
def test_each_processor_equals_transformers(seed, ours, theirs):
    scores = logits(seed)
    assert torch.equal(ours(scores), theirs(IDS, scores))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(1, 60),
    top_p=st.floats(0.01, 0.99),
    min_p=st.floats(0, 1),
)
def test_all_processors_together_equal_transformers_in_its_order(seed, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    theirs = LogitsProcessorList(
        [
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
        ]
    )
    assert torch.equal(process(logits(seed), params), theirs(IDS, logits(seed)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), top_k=st.integers(1, 9), top_p=st.floats(1e-6, 1), min_p=st.floats(0, 1))
def test_the_likeliest_token_always_stays(seed, top_k, top_p, min_p):
    scores = process(logits(seed), SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p))
    assert torch.equal(scores.argmax(-1), logits(seed).argmax(-1))
    assert scores.softmax(-1).isfinite().all()


def test_ties_with_the_kth_score_stay():
    assert sampling.top_k(torch.tensor([1.0, 3.0, 3.0, 3.0]), 2).isfinite().tolist() == [False, True, True, True]


@pytest.mark.parametrize("temperature", [0.0, 1e-30])
def test_temperature_zero_and_near_it_is_greedy(temperature):
    assert torch.equal(sample(logits(0), SamplingParams(temperature=temperature)), logits(0).argmax(-1))


def test_draws_have_the_frequencies_of_the_processed_distribution():
    row = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0])
    params = SamplingParams(temperature=0.8, top_k=4)
    expected = process(row, params).softmax(-1)
    n = 20_000
    draws = sample(row.expand(n, 5), params, torch.Generator().manual_seed(0))
    counts = draws.bincount(minlength=5)
    chi_square = ((counts - n * expected)[:4] ** 2 / (n * expected[:4])).sum()
    assert counts[4] == 0
    assert chi_square < 16.3  # 3 degrees of freedom, p = 0.001


def test_equal_seeds_draw_equal_tokens_and_other_seeds_others():
    rows = torch.zeros(40, 1000)
    draws = [sample(rows, SamplingParams(temperature=1.0), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_shape_in_front_of_the_vocabulary_is_kept():
    params = SamplingParams(temperature=1.0)
    assert sample(torch.zeros(7), params).shape == ()
    assert sample(torch.zeros(2, 3, 7), params).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.01),
        ("min_p", math.nan),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", "text"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(UserError, match=f"{name} = .*expected"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(("stop", "expected"), [(None, ()), ("ab", ("ab",)), (["a", "b"], ("a", "b"))])
def test_stop_may_be_one_text_or_many(stop, expected):
    assert SamplingParams.of(stop=stop).stop == expected


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams.of(temprature=1.0)  # type: ignore[call-arg]


def test_the_options_are_the_fields_of_the_params():
    assert set(SamplingOptions.__annotations__) == set(SamplingParams.__dataclass_fields__)
