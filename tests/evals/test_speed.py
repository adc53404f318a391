"""What is timed, and against which limit; how long it takes is nobody's to promise."""

import pytest
import torch

from vesalius.compress.quantised_linear import install_blocks
from vesalius.core.errors import UserError
from vesalius.core.hardware import Rates
from vesalius.evals.speed import measure_speed, time_work, weight_bytes
from vesalius.kernels.block_formats import BlockTensor
from vesalius.models.config import ModelConfig
from vesalius.models.counts import count_flops
from vesalius.models.transformer import Transformer

RATES = Rates(float32=1e9, bfloat16=3e9, read=1e10)


def model(context: int) -> Transformer:
    config = ModelConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=context, tie_word_embeddings=True,
    )  # fmt: skip
    return Transformer(config, seed=0).eval()


def test_what_the_context_holds_is_timed():
    assert [timing.work for timing in time_work(model(128), repeats=1)] == ["prompt of 100", "64 tokens behind 16"]
    assert [timing.work for timing in time_work(model(513), repeats=1)] == [
        "prompt of 512", "prompt of 100", "64 tokens behind 16", "64 tokens behind 448",
    ]  # fmt: skip


def test_a_prompt_is_held_against_products_and_a_token_against_reading():
    built = model(128)
    prompt, token = measure_speed(built, repeats=2, rates=RATES)
    flops = count_flops(built.config, 100)
    assert prompt.limit == pytest.approx(3e9 / (flops.total - flops.head * 99 / 100))
    keys_and_values = 2 * (16 + 32) * 16
    assert token.limit == pytest.approx(1e10 / (weight_bytes(built) + 4 * keys_and_values))
    assert prompt.rate == pytest.approx(100 / prompt.seconds)
    assert token.rate == pytest.approx(1 / token.seconds)
    for speed in (prompt, token):
        assert speed.to_dict().keys() == {"work", "rate", "limit", "seconds", "share"}
        assert speed.share == speed.rate / speed.limit > 0


def test_bytes_are_those_of_every_matrix_as_it_is_stored():
    built = model(128)
    matrices = 32 * (32 + 2 * 16 + 32 + 3 * 64) + 32 * 300
    assert weight_bytes(built) == 4 * matrices
    install_blocks(built, {"lm_head.weight": BlockTensor.quantise(torch.randn(300, 32), "q8_0")})
    packed = built.lm_head.matrix.nbytes
    assert packed < 32 * 304 * 9 / 8
    assert weight_bytes(built) == 4 * (matrices - 32 * 300) + packed


@pytest.mark.parametrize(("context", "repeats", "message"), [(80, 1, "context is 80"), (128, 0, "repeats = 0")])
def test_too_short_a_context_or_no_repeat_is_refused(context, repeats, message):
    with pytest.raises(UserError, match=message):
        time_work(model(context), repeats=repeats)
