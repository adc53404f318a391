"""Sampling: the processors together equal to transformers', few candidates as good as all, the draw's frequencies."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from vesalius.core.errors import UserError
from vesalius.infer.sampling import (
    Adjuster,
    SamplingParams,
    _look_up,
    best,
    candidates,
    draw,
    likeliest,
    process,
    sample,
)

IDS = torch.zeros(3, 1, dtype=torch.long)
EOS = frozenset({1, 2})


def logits(seed: int, vocabulary: int = 50) -> torch.Tensor:
    return torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(1, 60),
    top_p=st.floats(0.01, 0.99),
    min_p=st.floats(0, 1),
    typical_p=st.floats(0.01, 0.99),
)
def test_all_that_shape_the_distribution_equal_transformers_in_its_order(
    seed, temperature, top_k, top_p, min_p, typical_p
):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical_p=typical_p)
    theirs = LogitsProcessorList(
        [
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
            MinPLogitsWarper(min_p),
            TypicalLogitsWarper(typical_p),
        ]
    )
    assert torch.equal(process(logits(seed), params), theirs(IDS, logits(seed)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    penalty=st.floats(0.5, 2),
    size=st.integers(2, 4),
    min_tokens=st.integers(0, 12),
    bias=st.dictionaries(st.integers(0, 49), st.floats(-5, 5), min_size=1, max_size=5),
)
def test_all_that_change_single_scores_equal_transformers_in_its_order(seed, penalty, size, min_tokens, bias):
    ids = torch.randint(8, (3, 15), generator=torch.Generator().manual_seed(seed))
    banned = [[3], [1], [4, 5], [6, 7]]  # an end token alone is not banned
    ours = Adjuster(
        SamplingParams.of(
            repetition_penalty=penalty,
            no_repeat_ngram_size=size,
            min_tokens=min_tokens,
            logit_bias=bias,
            bad_words_ids=banned,
        ),
        50,
        prompt_tokens=5,
        eos_ids=EOS,
    )
    theirs = LogitsProcessorList(
        [
            SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()]),
            RepetitionPenaltyLogitsProcessor(penalty),
            NoRepeatNGramLogitsProcessor(size),
            NoBadWordsLogitsProcessor(banned, eos_token_id=[1, 2]),
            MinNewTokensLengthLogitsProcessor(5, min_tokens, [1, 2]),
        ]
    )
    torch.testing.assert_close(ours(logits(seed), ids), theirs(ids, logits(seed)), atol=1e-6, rtol=1e-6)


def test_presence_and_frequency_count_the_answer_and_not_the_prompt():
    adjust = Adjuster(SamplingParams(presence_penalty=1.0, frequency_penalty=0.5), 4, prompt_tokens=2)
    assert adjust(torch.zeros(4), torch.tensor([0, 0, 1, 1, 2])).tolist() == [0.0, -2.0, -1.5, 0.0]


@pytest.mark.parametrize(
    ("options", "eos", "active"),
    [
        ({}, EOS, False),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5}, EOS, False),
        ({"min_tokens": 1}, EOS, True),
        ({"min_tokens": 1}, frozenset(), False),
        ({"bad_words_ids": [[1]]}, EOS, False),
        ({"bad_words_ids": [[3]]}, EOS, True),
        ({"logit_bias": {3: 1.0}}, EOS, True),
        ({"frequency_penalty": 0.1}, EOS, True),
    ],
)
def test_the_adjuster_knows_whether_it_has_anything_to_do(options, eos, active):
    assert Adjuster(SamplingParams.of(**options), 50, eos_ids=eos).active is active


def test_settings_that_leave_no_token_are_told():
    forbidden = Adjuster(SamplingParams.of(logit_bias={0: -math.inf, 1: -math.inf}), 2)
    with pytest.raises(UserError, match="after 0 new tokens none is left"):
        forbidden(torch.zeros(2), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("options", [{"logit_bias": {50: 1.0}}, {"bad_words_ids": [[3, 77]]}])
def test_tokens_outside_the_vocabulary_are_refused(options):
    with pytest.raises(UserError, match=r"names token (50|77), expected one below the vocabulary's size of 50"):
        Adjuster(SamplingParams.of(**options), 50)


shapes = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.2, 2),
        "top_k": st.none() | st.integers(1, 6000),
        "top_p": st.none() | st.floats(1e-3, 1),
        "min_p": st.none() | st.floats(0, 0.5),
        "typical_p": st.none() | st.floats(0.1, 1),
    }
)


def has_a_token_at_the_border(scores: torch.Tensor, params: SamplingParams) -> bool:
    """Whether float32 sums do not say on which side of top-p a token falls."""
    before = replace(params, top_p=None, min_p=None, typical_p=None)
    reached = process(scores, before).double().sort().values.softmax(-1).cumsum(-1)
    return params.top_p is not None and bool(((reached - 1 + params.top_p).abs() < 1e-6).any())


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.sampled_from([1.0, 3.0, 8.0]), options=shapes)
def test_few_candidates_have_the_distribution_of_all(seed, width, options):
    scores = torch.randn(5000, generator=torch.Generator().manual_seed(seed)) * width
    params = SamplingParams(**options)
    assume(not has_a_token_at_the_border(scores, params))
    left, ids = candidates(scores, params)
    ours = left.softmax(-1)
    if ids is not None:
        ours = torch.zeros(5000).scatter(-1, ids, ours)
    torch.testing.assert_close(ours, process(scores, params).softmax(-1), atol=1e-6, rtol=1e-4)


def test_sharp_scores_are_drawn_from_few_candidates():
    scores = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 8
    for options, most in (({"top_k": 40}, 40), ({"top_p": 0.5}, 100), ({"top_k": 40, "top_p": 0.5}, 40)):
        left, ids = candidates(scores, SamplingParams(temperature=1.0, **options))
        assert ids is not None
        assert len(left) <= most


def test_ties_with_the_kth_candidate_stay():
    left, _ = candidates(torch.tensor([1.0, 3.0, 3.0, 3.0]), SamplingParams(temperature=1.0, top_k=2))
    assert left.isfinite().sum() == 3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), top_k=st.integers(1, 9), top_p=st.floats(1e-6, 1), min_p=st.floats(0, 1))
def test_the_likeliest_token_always_stays(seed, top_k, top_p, min_p):
    scores = process(logits(seed), SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p))
    assert torch.equal(scores.argmax(-1), logits(seed).argmax(-1))
    assert scores.softmax(-1).isfinite().all()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(64,), (640,), (3, 128), (2, 3, 320), (97,), (2, 65)]),
    values=st.integers(1, 1000),
)
def test_the_likeliest_token_is_argmax_the_first_of_equals(seed, shape, values):
    scores = torch.randint(values, shape, generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal(likeliest(scores), scores.argmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 1e-30])
def test_temperature_zero_and_near_it_is_greedy(temperature):
    assert torch.equal(sample(logits(0), SamplingParams(temperature=temperature)), logits(0).argmax(-1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8},
        {"temperature": 1.5, "top_k": 12},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 1.2, "typical_p": 0.8},
    ],
)
def test_draws_have_the_frequencies_of_the_processed_distribution(seed, options):
    """Chi-square of 20,000 draws; tokens expected less than five times are one class together."""
    row = torch.randn(320, generator=torch.Generator().manual_seed(seed)) * 2
    params, n = SamplingParams(**options), 20_000
    expected = n * process(row, params).softmax(-1).double()
    counts = sample(row.expand(n, -1), params, torch.Generator().manual_seed(seed)).bincount(minlength=320).double()
    assert counts[expected == 0].sum() == 0
    rare = expected < 5
    counts, expected = (torch.cat((x[~rare], x[rare].sum(-1, keepdim=True))) for x in (counts, expected))
    used = expected > 0
    statistic = float(((counts - expected)[used] ** 2 / expected[used]).sum())
    assert statistic < chi2.isf(1e-4, int(used.sum()) - 1)


def test_draws_of_one_row_at_a_time_have_the_frequencies_too():
    """One row goes another way than many: top-p without sorting."""
    row, n = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]).log(), 4_000
    row = torch.cat((row, torch.full((400,), -30.0)))  # enough to be more than the first candidates
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=1.0, top_p=0.8)
    counts = torch.stack([sample(row, params, generator) for _ in range(n)]).bincount(minlength=405).double()
    expected = n * torch.tensor([0.4, 0.3, 0.15], dtype=torch.float64) / 0.85
    assert counts[3:].sum() == 0
    assert float(((counts[:3] - expected) ** 2 / expected).sum()) < chi2.isf(1e-4, 2)


def test_a_token_of_no_probability_is_never_drawn():
    probabilities = torch.tensor([0.0, 1e-12, 0.0, 1e-12, 0.0]).expand(10_000, 5)
    assert set(draw(probabilities, torch.Generator().manual_seed(0)).tolist()) == {1, 3}


def test_equal_seeds_draw_equal_tokens_and_other_seeds_others():
    rows = torch.zeros(40, 1000)
    draws = [sample(rows, SamplingParams(temperature=1.0), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_shape_in_front_of_the_vocabulary_is_kept():
    for options in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 3}, {"temperature": 1.0, "top_p": 0.5}):
        params = SamplingParams(**options)
        assert sample(torch.zeros(7), params).shape == ()
        assert sample(torch.zeros(2, 3, 7), params).shape == (2, 3)


@pytest.mark.parametrize("options", [{"top_p": 0.7}, {"top_k": 7}, {"temperature": 0.5, "min_p": 0.1}, {}])
def test_rows_that_are_drawn_together_draw_what_each_draws_alone(options):
    scores = torch.randn(6, 5000, generator=torch.Generator().manual_seed(3)) * torch.arange(1, 7).unsqueeze(1)
    params = SamplingParams.of(**{"temperature": 1.0, **options})
    for seed in range(20):
        alone = [sample(row, params, torch.Generator().manual_seed(seed + i)) for i, row in enumerate(scores)]
        together = sample(scores, params, [torch.Generator().manual_seed(seed + i) for i in range(6)])
        assert together.tolist() == [int(token) for token in alone]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 300), width=st.sampled_from([640, 6400, 19_200, 1000]))
def test_the_best_are_those_of_topk(seed, count, width):
    scores = torch.randn(3, width, generator=torch.Generator().manual_seed(seed))
    values, ids = best(scores, count)
    assert torch.equal(values, scores.topk(count).values)
    assert torch.equal(scores.gather(1, ids), values)
    assert all(len(row.unique()) == count for row in ids)


@pytest.mark.parametrize("width", [640, 641])
def test_a_token_without_probability_is_never_drawn_and_the_others_as_often_as_they_should_be(width):
    probabilities = torch.zeros(width)
    held = torch.tensor([3, 63, 64, 200, width - 2])
    probabilities[held] = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.3])
    drawn = draw(probabilities.expand(20_000, -1), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=width)
    assert int(counts[held].sum()) == 20_000
    assert chisquare(counts[held].numpy(), (probabilities[held] * 20_000).numpy()).pvalue > 0.001


def test_the_whole_share_is_the_last_token_that_has_any():
    weights = torch.tensor([0.25, 0.5, 0.25, 0.0, 0.0])
    for share, place in ((0.0, 0), (0.2499, 0), (0.25, 1), (0.7499, 1), (0.75, 2), (1.0, 2)):
        assert int(_look_up(weights, torch.tensor([share], dtype=torch.float64))[0]) == place
