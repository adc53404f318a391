"""The mixture of experts equals transformers' blocks, forward and backward; grouped computation equals one by one."""

from dataclasses import replace

import pytest
import torch
from transformers import GptOssConfig, Qwen2MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.experts import MixtureOfExperts

D, F = 12, 8
CONFIG = ModelConfig(vocab_size=11, hidden_size=D, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20)
MIXTURE = Mixture(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=F)


def random_block(mixture, seed=0):
    block = MixtureOfExperts(CONFIG, mixture)
    generator = torch.Generator().manual_seed(seed)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return block


def inputs(*shape, seed=1):
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def one_by_one(block, x):
    """The definition: every token through its experts, one after another."""
    routing, e, rows = block.gate(x.flatten(0, 1)), block.experts, []
    for t, row in enumerate(x.flatten(0, 1)):
        total = torch.zeros(D)
        for i, weight in zip(routing.experts[t], routing.weights[t], strict=True):
            hidden = torch.nn.functional.silu(e.gate_proj[i] @ row) * (e.up_proj[i] @ row)
            total = total + weight * (e.down_proj[i] @ hidden)
        rows.append(total)
    return torch.stack(rows).view(x.shape)


def assert_same_gradients(ours, theirs, leaves):
    cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for one, other in zip(
        torch.autograd.grad(ours, leaves, cotangent), torch.autograd.grad(theirs, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 9), (1, 1), (1, 3)])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "softmax_topk"])
def test_grouped_computation_equals_one_token_after_another(scoring, shape):
    block, x = random_block(replace(MIXTURE, scoring=scoring)), inputs(*shape)
    assert_same_gradients(block(x), one_by_one(block, x), [x, *block.parameters()])


def test_experts_that_no_token_chose_have_gradient_zero():
    block = random_block(MIXTURE)
    block(inputs(1, 1)).sum().backward()
    used = set(block.gate.last.experts.flatten().tolist())
    for parameter in (block.experts.gate_proj, block.experts.up_proj, block.experts.down_proj):
        assert {i for i in range(5) if parameter.grad[i].abs().sum() > 0} == used


def test_equals_qwen2_moe_with_its_gated_shared_expert():
    block = random_block(replace(MIXTURE, shared_expert_intermediate_size=14, shared_expert_gate=True))
    theirs = Qwen2MoeSparseMoeBlock(
        Qwen2MoeConfig(
            hidden_size=D,
            num_experts=5,
            num_experts_per_tok=2,
            moe_intermediate_size=F,
            shared_expert_intermediate_size=14,
            norm_topk_prob=True,
        )
    )
    theirs.experts.config._experts_implementation = "eager"
    state = {name: tensor for name, tensor in block.state_dict().items() if not name.startswith("experts.")}
    e = block.experts
    state["experts.gate_up_proj"] = torch.cat((e.gate_proj, e.up_proj), dim=1)
    state["experts.down_proj"] = e.down_proj
    theirs.load_state_dict(state)
    x = inputs(2, 7)
    torch.testing.assert_close(block(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_equals_gpt_oss_with_clamped_activation_and_biases():
    mixture = replace(MIXTURE, scoring="softmax_topk", router_bias=True, expert_bias=True, swiglu_limit=1.0)
    block = random_block(mixture)
    theirs = GptOssMLP(
        GptOssConfig(hidden_size=D, num_local_experts=5, num_experts_per_tok=2, intermediate_size=F, swiglu_limit=1.0)
    )
    theirs.experts.config._experts_implementation = "eager"
    e = block.experts
    state = {
        "router.weight": block.gate.weight,
        "router.bias": block.gate.bias,
        "experts.gate_up_proj": torch.stack((e.gate_proj, e.up_proj), dim=2).flatten(1, 2).mT,
        "experts.gate_up_proj_bias": torch.stack((e.gate_proj_bias, e.up_proj_bias), dim=2).flatten(1),
        "experts.down_proj": e.down_proj.mT,
        "experts.down_proj_bias": e.down_proj_bias,
    }
    theirs.load_state_dict(state)
    x = inputs(2, 7) * 2
    torch.testing.assert_close(block(x), theirs(x)[0], atol=1e-5, rtol=1e-5)


def test_a_dropped_token_passes_through_no_expert():
    block = random_block(replace(MIXTURE, num_experts_per_tok=1, capacity_factor=0.3))
    x = inputs(1, 12)
    out = block(x)[0]
    kept = block.gate.last.kept[:, 0]
    assert 0 < kept.sum() < 12
    assert out[~kept].abs().max() == 0
    assert (out[kept].abs().amax(-1) > 0).all()


def test_without_tokens_there_is_no_output():
    assert random_block(MIXTURE)(inputs(1, 0)).shape == (1, 0, D)
