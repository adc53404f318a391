"""The dense cache: the same attention as without it, however the tokens arrive; growth, positions, memory and the
context's end."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.core.errors import UserError
from vesalius.infer.cache import DenseCache
from vesalius.kernels.attention import reference
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer

TINY = ModelConfig(
    vocab_size=61,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
)
TOKENS = torch.randint(61, (2, 40), generator=torch.Generator().manual_seed(0))


def logits_by_chunks(model: Transformer, tokens: torch.Tensor, sizes: list[int], cache: DenseCache) -> torch.Tensor:
    parts = [model(chunk, cache.positions(chunk.shape[1]), cache) for chunk in tokens.split(sizes, dim=1)]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("sizes", [[40], [1] * 40, [17, 1, 1, 9, 12], [1, 39]])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "qk_norm": "head"},
        {"position": "learned", "norm": "layer", "mlp": "plain", "hidden_act": "gelu"},
    ],
)
def test_logits_with_the_cache_equal_logits_without(changes, sizes):
    config = replace(TINY, **changes)
    model = Transformer(config).eval()
    cache = DenseCache(config, batch_size=2, capacity=3)
    with torch.no_grad():
        torch.testing.assert_close(logits_by_chunks(model, TOKENS, sizes, cache), model(TOKENS), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 2), (3, 1)]),
    capacity=st.integers(1, 64),
    seed=st.integers(0, 99),
)
def test_attend_equals_reference_attention_over_all_tokens_so_far(sizes, heads, capacity, seed):
    H, K = heads
    config = ModelConfig(
        vocab_size=1,
        hidden_size=H * 4,
        num_hidden_layers=1,
        num_attention_heads=H,
        num_key_value_heads=K,
        max_position_embeddings=64,
    )
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, heads, sum(sizes), 4, generator=generator) for heads in (H, K, K))
    cache = DenseCache(config, batch_size=2, capacity=capacity)
    parts = [cache.attend(0, *chunk) for chunk in zip(*(x.split(sizes, dim=2) for x in (q, k, v)), strict=True)]
    torch.testing.assert_close(torch.cat(parts, dim=2), reference(q, k, v), atol=1e-6, rtol=1e-5)


def test_positions_go_on_after_each_step():
    cache = DenseCache(TINY)
    assert cache.positions(3).tolist() == [[0, 1, 2]]
    with torch.no_grad():
        Transformer(TINY)(TOKENS[:1, :5], cache.positions(5), cache)
    assert cache.length == 5
    assert cache.positions(2).tolist() == [[5, 6]]


def test_memory_is_that_of_the_capacity_and_doubles_up_to_the_context():
    def expected(positions: int) -> int:
        return 2 * TINY.num_hidden_layers * TINY.num_key_value_heads * TINY.head_dim * positions * 4

    cache, model, seen = DenseCache(TINY, capacity=20), Transformer(TINY), []
    with torch.no_grad():
        for _ in range(64):
            model(TOKENS[:1, :1], cache.positions(1), cache)
            seen.append(cache.nbytes)
    assert seen == [expected(20)] * 20 + [expected(40)] * 20 + [expected(64)] * 24


@pytest.mark.parametrize("rows", [[0, 1], [1, 0], [1, 1, 0], [0]])
def test_reordered_rows_go_on_as_the_sequences_that_they_became(rows):
    model, cache = Transformer(TINY).eval(), DenseCache(TINY, batch_size=2)
    with torch.no_grad():
        model(TOKENS[:, :20], cache.positions(20), cache)
        cache.reorder(torch.tensor(rows))
        following = TOKENS[:1, 20:30].expand(len(rows), -1)
        expected = model(torch.cat((TOKENS[rows, :20], following), dim=1))[:, 20:]
        torch.testing.assert_close(model(following, cache.positions(10), cache), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 13, 20, 99])
def test_a_truncated_cache_goes_on_from_what_is_left(length):
    model, cache = Transformer(TINY).eval(), DenseCache(TINY, batch_size=2)
    left = min(length, 20)
    with torch.no_grad():
        model(TOKENS[:, :20], cache.positions(20), cache)
        cache.truncate(length)
        assert cache.length == left
        expected = model(torch.cat((TOKENS[:, :left], TOKENS[:, 30:]), dim=1))[:, left:]
        actual = model(TOKENS[:, 30:], cache.positions(10), cache)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_more_tokens_than_the_context_are_refused():
    cache = DenseCache(TINY)
    cache.positions(64)
    with pytest.raises(UserError, match="65 tokens are longer than the model's context of 64"):
        cache.positions(65)


def test_the_cache_keeps_the_dtype_it_is_given():
    model = Transformer(TINY).to(torch.bfloat16)
    cache = DenseCache(TINY, dtype=torch.bfloat16)
    with torch.no_grad():
        model(TOKENS[:1, :5], cache.positions(5), cache)
    assert cache.nbytes == DenseCache(TINY).nbytes // 2
