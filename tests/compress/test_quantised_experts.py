"""Stacks of experts in blocks: the grouped product of their float values up to rounding, stored blocks as state."""

import pytest
import torch

from vesalius.compress.quantised_experts import QuantisedExperts
from vesalius.compress.quantised_linear import install_blocks
from vesalius.core.errors import UserError
from vesalius.kernels.block_formats import BlockTensor
from vesalius.kernels.grouped_matmul import reference
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.transformer import Transformer


def stack(*shape, format="q8_0", seed=0):
    return BlockTensor.quantise(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), format)


SIZES = torch.tensor([3, 0, 2, 1])


@pytest.mark.parametrize("format", ["q8_0", "q4_1"])
def test_the_product_is_the_grouped_product_of_the_values(format):
    experts, rows = QuantisedExperts.from_blocks(stack(4, 20, 64, format=format)), torch.randn(6, 64)
    truth = reference(rows, experts.dequantise(), SIZES)
    torch.testing.assert_close(experts(rows, SIZES), truth, atol=0.2, rtol=0.02)  # activations are rounded to int8
    assert (experts.shape, experts.format) == ((4, 20, 64), format)
    assert repr(experts) == f"QuantisedExperts(4, 64, 20, format={format})"


def test_no_rows_give_no_rows_and_the_dtype_is_that_of_the_rows():
    experts = QuantisedExperts.from_blocks(stack(4, 20, 64))
    assert experts(torch.empty(0, 64), torch.zeros(4, dtype=torch.int64)).shape == (0, 20)
    assert experts(torch.randn(6, 64).bfloat16(), SIZES).dtype == torch.bfloat16


def test_the_gradient_of_the_rows_is_that_of_the_values():
    experts, rows = QuantisedExperts.from_blocks(stack(4, 20, 64)), torch.randn(6, 64, requires_grad=True)
    experts(rows, SIZES).sum().backward()
    expected = experts.dequantise().sum(1).repeat_interleave(SIZES, 0)
    torch.testing.assert_close(rows.grad, expected, atol=1e-4, rtol=1e-4)


def test_the_state_is_the_stored_blocks_and_loads_back():
    stored = stack(4, 20, 64)
    experts = QuantisedExperts.from_blocks(stored)
    state = experts.state_dict()
    assert list(state) == ["blocks"]
    assert torch.equal(state["blocks"], stored.blocks)
    second = QuantisedExperts.from_blocks(stack(4, 20, 64, seed=1))
    second.load_state_dict(state)
    assert torch.equal(second.blocks().blocks, stored.blocks)
    with pytest.raises(RuntimeError, match="must be uint8"):
        second.load_state_dict({"blocks": state["blocks"][:3]})


def tiny_mixture():
    config = ModelConfig(
        vocab_size=70,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        mixture=Mixture(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, expert_bias=True),
    )
    return Transformer(config).eval()


def test_a_model_takes_stacks_in_different_formats_and_keeps_the_rest():
    model, tokens = tiny_mixture(), torch.arange(12).view(2, 6)
    before = model(tokens)
    names = {"gate_proj": "q8_0", "down_proj": "q5_1"}
    weights = {f"model.layers.1.mlp.experts.{name}": format for name, format in names.items()}
    released = []
    parameters = dict(model.named_parameters())
    blocks = {name: BlockTensor.quantise(parameters[name], format) for name, format in weights.items()}
    install_blocks(model, blocks, released.append)
    experts = model.model.layers[1].mlp.experts
    assert isinstance(experts.gate_proj, QuantisedExperts)
    assert isinstance(experts.up_proj, torch.nn.Parameter)
    assert len(released) == 8
    assert (model(tokens) - before).abs().max() < 0.05 * before.abs().max()


def test_a_stack_of_another_shape_is_refused_and_changes_nothing():
    model = tiny_mixture()
    with pytest.raises(
        UserError, match=r"gate_proj has shape \(4, 32, 64\) in the model, the blocks have \(3, 32, 64\)"
    ):
        install_blocks(model, {"model.layers.0.mlp.experts.gate_proj": stack(3, 32, 64)})
    assert isinstance(model.model.layers[0].mlp.experts.gate_proj, torch.nn.Parameter)
