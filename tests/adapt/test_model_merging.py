"""Whole models made into one: means and ways along the sphere, beside numpy and their properties."""

import math

import pytest
import torch
from engine_models import SIZES, tiny_model

from vesalius.adapt.model_merging import merge_linear, merge_slerp, slerp
from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer


def other_model(**changes):
    return Transformer(ModelConfig.from_dict(SIZES | changes), seed=5)


def test_linear_is_the_weighted_mean_of_every_tensor():
    first, second = tiny_model(), other_model()
    made = merge_linear([first, second], [0.25, 0.75])
    parameters = zip(made.parameters(), first.parameters(), second.parameters(), strict=True)
    assert all(torch.allclose(m, 0.25 * a + 0.75 * b, atol=1e-7) for m, a, b in parameters)


def test_slerp_goes_from_one_to_the_other_on_the_sphere():
    first, second = tiny_model(), other_model()
    for t, end in ((0.0, first), (1.0, second)):
        made = merge_slerp(first, second, t)
        for found, expected in zip(made.parameters(), end.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    angle = math.radians(70)
    a, b = torch.tensor([2.0, 0.0]), 2 * torch.tensor([math.cos(angle), math.sin(angle)])
    for t in (0.1, 0.5, 0.8):
        expected = 2 * torch.tensor([math.cos(t * angle), math.sin(t * angle)])
        torch.testing.assert_close(slerp(a, b, t), expected, rtol=0, atol=1e-6)


def test_parallel_and_zero_vectors_are_mixed_straight():
    a = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a, rtol=0, atol=1e-6)
    torch.testing.assert_close(slerp(a, torch.zeros(2), 0.5), a / 2, rtol=0, atol=1e-6)


def test_other_shapes_are_refused():
    with pytest.raises(UserError, match="only models of one shape can be merged"):
        merge_slerp(tiny_model(), other_model(intermediate_size=64), 0.5)
    with pytest.raises(UserError, match="1 weights for 2 models"):
        merge_linear([tiny_model(), other_model()], [1.0])
