"""Reading each prompt once is reading every answer in a row of its own: log-probabilities and gradients, ≤ 1e-5."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesalius.align.logprobs import token_logprobs
from vesalius.align.policy import reading
from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.reading import Reading, reading_of
from vesalius.data.batch import IGNORE
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=512, initializer_range=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(CONFIG, seed=0)


Answer = tuple[int, list[tuple[int, bool]]]
"""The number of its prompt, and stretches of so many tokens that the policy says, or a tool."""

stretches = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=4)
answers = st.lists(st.tuples(st.integers(0, 2), stretches), min_size=1, max_size=9)


def batch_of(answers: list[Answer], seed: int = 0) -> PolicyBatch:
    """Prompts of 3, 9 and 15 random tokens, two of which begin alike; an answer whose stretches are all a tool's has
    no target."""
    generator = torch.Generator().manual_seed(seed)
    longest = torch.randint(50, (15,), generator=generator).tolist()
    prompts = [longest[:3], longest[:9], torch.randint(50, (15,), generator=generator).tolist()]
    width = max(len(prompts[which]) + sum(n for n, _ in parts) for which, parts in answers) - 1
    tokens, targets = torch.zeros(len(answers), width, dtype=torch.int64), torch.full((len(answers), width), IGNORE)
    for row, (which, parts) in enumerate(answers):
        said = [False] * len(prompts[which]) + [policy for n, policy in parts for _ in range(n)]
        ids = torch.tensor(prompts[which] + torch.randint(50, (len(said),), generator=generator).tolist())[: len(said)]
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:].where(torch.tensor(said[1:]), IGNORE)
    zeros = torch.zeros(tokens.shape)
    return PolicyBatch(tokens=tokens, targets=targets, sampled=zeros, advantages=zeros)


def logprobs(model: Transformer, read: Reading) -> torch.Tensor:
    return read.back(token_logprobs(model, read.tokens, read.targets, read.positions))


@given(answers)
def test_each_target_gets_the_log_probability_of_a_row_of_its_own(model, answers):
    batch = batch_of(answers)
    with torch.no_grad():
        expected = token_logprobs(model, batch.tokens, batch.targets)
        found = logprobs(model, reading_of(batch, model.config))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_gradients_are_the_same(model):
    batch = batch_of([(2, [(5, True)]), (0, [(3, True), (4, False), (2, True)]), (2, [(1, True)]), (2, [(9, True)])])
    weights = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(1))

    def gradients(logp: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((logp * weights).sum(), list(model.parameters())))

    expected = gradients(token_logprobs(model, batch.tokens, batch.targets))
    found = gradients(logprobs(model, reading_of(batch, model.config)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_a_prompt_is_read_once_for_all_of_its_answers(model):
    batch = batch_of([(2, [(4, True)])] * 8)
    read = reading_of(batch, model.config)
    assert batch.tokens.numel() == 8 * 18
    assert read.tokens.numel() == 14 + 8 * 4


@pytest.mark.parametrize("limit", ["ROOM", "context"])
def test_a_row_has_no_more_answers_than_there_is_room_for(model, monkeypatch, limit):
    """Else attention, which pays for all pairs, would cost more than the prompts save."""
    config = replace(CONFIG, max_position_embeddings=30) if limit == "context" else CONFIG
    if limit == "ROOM":
        monkeypatch.setattr(reading, "ROOM", 30)
    batch = batch_of([(2, [(length, True)]) for length in (4, 9, 2, 6, 3, 5, 1)])
    read = reading_of(batch, config)
    assert read.tokens.shape[1] <= 30
    with torch.no_grad():
        expected = token_logprobs(model, batch.tokens, batch.targets)
        torch.testing.assert_close(logprobs(model, read), expected, atol=1e-5, rtol=0)


def test_what_no_prompt_shares_or_no_model_can_stays_as_it_is(model):
    alone = batch_of([(0, [(4, True)]), (2, [(4, True)])])
    shared = batch_of([(0, [(4, True)]), (0, [(4, True)])])
    windowed = replace(CONFIG, sliding_window=8)
    for batch, config in ((alone, CONFIG), (shared, windowed)):
        read = reading_of(batch, config)
        assert read.tokens is batch.tokens
        assert read.targets is batch.targets
        assert read.positions is None
