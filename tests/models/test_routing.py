"""Routers equal transformers' on random logits; capacity drops in the stated order; what a mixture may not be."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV2Config, DeepseekV3Config, GptOssConfig, MixtralConfig, Qwen2MoeConfig
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter

from vesalius.core.errors import UserError
from vesalius.models.config import ModelConfig
from vesalius.models.config_sections import Mixture
from vesalius.models.routing import Router, choose, within_capacity

D, T = 6, 23
EIGHT = Mixture(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=4)
GROUPED = {"n_group": 4, "topk_group": 2}
DEEPSEEK = {
    "hidden_size": D,
    "num_attention_heads": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "routed_scaling_factor": 2.5,
}

ROUTERS = {
    "mixtral": (
        MixtralTopKRouter(MixtralConfig(hidden_size=D, num_local_experts=8, num_experts_per_tok=3)),
        EIGHT,
    ),
    "qwen2_moe": (
        Qwen2MoeTopKRouter(Qwen2MoeConfig(hidden_size=D, num_experts=8, num_experts_per_tok=3)),
        replace(EIGHT, norm_topk_prob=False),
    ),
    "deepseek_v2 greedy": (
        DeepseekV2TopkRouter(DeepseekV2Config(**DEEPSEEK)),
        replace(EIGHT, norm_topk_prob=False, routed_scaling_factor=2.5),
    ),
    "deepseek_v2 groups": (
        DeepseekV2TopkRouter(DeepseekV2Config(**DEEPSEEK, **GROUPED, topk_method="group_limited_greedy")),
        replace(EIGHT, norm_topk_prob=False, routed_scaling_factor=2.5, **GROUPED),
    ),
    "deepseek_v3": (
        DeepseekV3TopkRouter(DeepseekV3Config(**DEEPSEEK, **GROUPED)),
        replace(
            EIGHT,
            scoring="sigmoid",
            routed_scaling_factor=2.5,
            group_score="top2_sum",
            correction_bias=True,
            **GROUPED,
        ),
    ),
    "gpt_oss": (
        GptOssTopKRouter(GptOssConfig(hidden_size=D, num_local_experts=8, num_experts_per_tok=3)),
        replace(EIGHT, scoring="softmax_topk", router_bias=True),
    ),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("seed", range(5))
def test_equals_transformers_router(name, seed):
    theirs, mixture = ROUTERS[name]
    ours = Router(D, mixture)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    state = {key: torch.randn(value.shape, generator=generator(seed)) for key, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    x = torch.randn(T, D, generator=generator(seed + 100)) * 2
    routing = ours(x)
    logits, weights, experts = theirs(x)
    torch.testing.assert_close(routing.logits, logits, atol=1e-6, rtol=1e-6)
    dense = [
        torch.zeros(T, 8).scatter(1, index, weight)
        for index, weight in ((routing.experts, routing.weights), (experts, weights))
    ]
    torch.testing.assert_close(*dense, atol=1e-6, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 9999), groups=st.sampled_from([(1, 1), (2, 1), (4, 2), (8, 5)]), k=st.integers(1, 4))
def test_a_token_uses_k_different_experts_of_at_most_topk_group_groups(seed, groups, k):
    mixture = replace(EIGHT, num_experts_per_tok=k, n_group=groups[0], topk_group=groups[1])
    experts, weights = choose(torch.randn(T, 8, generator=generator(seed)), mixture)
    assert all(len(set(row)) == k for row in experts.tolist())
    assert all(len({i // (8 // groups[0]) for i in row}) <= groups[1] for row in experts.tolist())
    torch.testing.assert_close(weights.sum(-1), torch.ones(T))
    assert (weights.diff(dim=-1) <= 0).all()


def test_the_correction_bias_chooses_but_does_not_weigh():
    mixture = replace(EIGHT, num_experts_per_tok=1, scoring="sigmoid", norm_topk_prob=False, correction_bias=True)
    logits, bias = torch.zeros(1, 8), torch.zeros(8)
    bias[5] = 1.0
    experts, weights = choose(logits, mixture, bias)
    assert experts.item() == 5
    assert weights.item() == 0.5


def test_scores_are_float32_under_autocast_and_in_a_bfloat16_model():
    router = Router(D, EIGHT)
    torch.nn.init.normal_(router.weight, generator=generator())
    x = torch.randn(T, D, generator=generator(1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = router(x).logits
    assert torch.equal(logits, x @ router.weight.T)
    short = router.to(torch.bfloat16)(x.bfloat16())
    assert short.logits.dtype == short.weights.dtype == torch.float32


def test_first_choices_come_before_second_ones_and_earlier_tokens_before_later():
    mixture = Mixture(num_experts=3, num_experts_per_tok=2, moe_intermediate_size=1, capacity_factor=1.0)
    experts = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 2]])  # room for ⌈4 · 2 / 3⌉ = 3 each
    assert within_capacity(experts, mixture).tolist() == [[True, False], [True, True], [True, True], [True, True]]
    tight = replace(mixture, capacity_factor=0.5)  # room for 2
    assert within_capacity(experts, tight).tolist() == [[True, False], [True, True], [True, False], [False, True]]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), factor=st.floats(0.1, 3.0))
def test_no_expert_takes_more_than_its_capacity_and_none_is_dropped_where_there_is_room(seed, factor):
    mixture = replace(EIGHT, capacity_factor=factor)
    experts, _ = choose(torch.randn(T, 8, generator=generator(seed)), mixture)
    kept = within_capacity(experts, mixture)
    room = -int(-factor * T * 3 // 8)
    wanted = torch.bincount(experts.flatten(), minlength=8)
    assert torch.bincount(experts[kept], minlength=8).tolist() == wanted.clamp(max=room).tolist()


def test_only_training_drops():
    router = Router(D, replace(EIGHT, capacity_factor=0.1))
    torch.nn.init.normal_(router.weight, generator=generator())
    x = torch.randn(T, D, generator=generator(1))
    assert not router(x).kept.all()
    assert router.eval()(x).kept is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok = 9, but a token reaches only 8 experts"),
        ({"n_group": 3}, "8 experts in n_group = 3"),
        ({"n_group": 2, "topk_group": 3}, "topk_group = 3"),
        ({"n_group": 4, "topk_group": 1}, "reaches only 2 experts"),
        ({"capacity_factor": -1.0}, "must not be negative, got -1.0"),
        ({"scoring": "softmx"}, "scoring = 'softmx': did you mean 'softmax'"),
        ({"group_score": "sum"}, "group_score = 'sum'"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(EIGHT, **changes)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"num_expert": 4}, r"unknown model setting mixture\.num_expert, did you mean 'num_experts'"),
        ({"num_experts": 4}, "missing 2 required.*'num_experts_per_tok'"),
    ],
)
def test_settings_of_a_mixture_that_a_recipe_misspells_or_forgets_are_named(mixture, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_dict(
            {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "mixture": mixture}
        )
