"""Training in few bits: what is rounded is what ml_dtypes casts, and each format fails where it should."""

import math
import pydoc_data.topics
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch

from vesalius.foundations.autograd.tensor import Tensor, grad
from vesalius.foundations.floats.training import (
    BF16,
    CONTEXT,
    E5M2,
    FP16,
    FP32,
    PRECISIONS,
    ROUND,
    NextByte,
    Precision,
    compare,
    losses,
)

IDS = np.frombuffer("".join(pydoc_data.topics.topics.values()).encode(), np.uint8)


def mean_of_last(precision: str, steps: int = 150) -> float:
    return float(np.mean(list(losses(IDS, PRECISIONS[precision], steps=steps))[-20:]))


def test_values_are_rounded_forward_and_gradients_backward():
    values, gradient = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    x = Tensor(values, requires_grad=True)
    out = ROUND(x, to=BF16, back=E5M2)
    (g,) = grad(out, [x], gradient)
    np.testing.assert_array_equal(out.data, values.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(g.data, gradient.astype(ml_dtypes.float8_e5m2).astype(np.float32))


def test_without_rounding_the_model_is_torchs():
    model = NextByte(PRECISIONS["fp32"], np.random.default_rng(0))
    weights = {name: torch.from_numpy(array) for name, array in model.state().items()}
    ids = IDS[:40].reshape(-1, CONTEXT)
    x = weights["embed.weight"][torch.from_numpy(ids.astype(np.int64))].flatten(1)
    x = torch.nn.functional.linear(x, weights["hidden.weight"], weights["hidden.bias"])
    x = torch.nn.functional.gelu(x, approximate="tanh")
    expected = torch.nn.functional.linear(x, weights["out.weight"], weights["out.bias"])
    np.testing.assert_allclose(model(ids).data, expected.numpy(), rtol=0, atol=1e-5)


def test_sixteen_bits_and_full_weights_train_as_well_as_float32():
    full = mean_of_last("fp32")
    assert full < 3.3
    assert mean_of_last("bf16, weights fp32") == pytest.approx(full, abs=0.03)


def test_small_gradients_are_lost_in_fp8_unless_the_loss_is_scaled():
    """All of them: the loss stays where a uniform guess has it."""
    assert mean_of_last("fp8") == pytest.approx(mean_of_last("fp32"), abs=0.05)
    assert mean_of_last("fp8, small gradients", steps=40) == pytest.approx(math.log(256), abs=0.05)


def test_small_gradients_are_kept_in_bf16():
    """It has float32's exponents: a power of two changes nothing."""
    plain, small = PRECISIONS["bf16"], replace(PRECISIONS["bf16"], loss_scale=2.0**-14)
    assert list(losses(IDS, plain, steps=20)) == list(losses(IDS, small, steps=20))


def test_every_precision_is_compared_from_the_same_start():
    curves = compare(IDS, steps=2)
    assert curves.keys() == PRECISIONS.keys()
    starts = [curve[0] for name, curve in curves.items() if "fp4" not in name]
    assert starts == pytest.approx([starts[0]] * len(starts), abs=0.02)


def test_a_loss_scaled_too_far_ends_training_in_fp16():
    too_far = Precision(forward=FP16, backward=FP16, loss_scale=2.0**30)
    assert np.isnan(list(losses(IDS, too_far, steps=3))[1:]).all()


def test_bf16_weights_stop_taking_updates_unless_rounded_stochastically():
    """At a small rate each update is less than half a unit in the last place of most weights."""

    def final(precision: Precision) -> float:
        return float(np.mean(list(losses(IDS, precision, steps=150, learning_rate=2e-4))[-20:]))

    nearest, stochastic = final(PRECISIONS["bf16"]), final(PRECISIONS["bf16, weights stochastic"])
    full = final(Precision())
    assert stochastic == pytest.approx(full, abs=0.05)
    assert nearest > stochastic + 0.05


def test_too_few_bytes_are_refused():
    with pytest.raises(ValueError, match="guessed from 4 others, got 4 in all"):
        next(losses(IDS[:4], Precision(forward=FP32), steps=1))
