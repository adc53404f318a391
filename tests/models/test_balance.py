"""Balancing: the loss equals transformers' for each layer, statistics count right, and both ways even out the load."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from vesalius.models.balance import (
    auxiliary_losses,
    correct_biases,
    expert_statistics,
    load_balancing_loss,
    z_loss,
)
from vesalius.models.config_sections import Mixture
from vesalius.models.routing import Router

D, N, T = 6, 8, 40
MIXTURE = Mixture(num_experts=N, num_experts_per_tok=2, moe_intermediate_size=4)


def routers(mixture=MIXTURE, count=2):
    model = nn.ModuleList(Router(D, mixture) for _ in range(count))
    for i, router in enumerate(model):
        nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(i))
    return model


def tokens(seed=0):
    return torch.randn(T, D, generator=torch.Generator().manual_seed(seed)) + 0.5


def run(model, x=None):
    return [router(tokens() if x is None else x) for router in model]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_loss_of_one_layer_equals_transformers(k):
    logits = torch.randn(T, N, generator=torch.Generator().manual_seed(k)).requires_grad_()
    probabilities = logits.softmax(-1)
    ours = load_balancing_loss(probabilities, probabilities.topk(k).indices)
    theirs = load_balancing_loss_func((logits,), N, k)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-8, rtol=1e-5)


def test_losses_are_means_over_the_layers():
    model = routers()
    routings = run(model)
    losses = auxiliary_losses(model)
    balance = [load_balancing_loss_func((routing.logits,), N, 2) for routing in routings]
    torch.testing.assert_close(losses.balance, sum(balance) / 2)
    torch.testing.assert_close(losses.z, sum(r.logits.exp().sum(-1).log().pow(2).mean() for r in routings) / 2)


def test_an_even_load_costs_k_and_one_expert_for_all_costs_n():
    even = torch.full((N, N), 1 / N)
    pairs = torch.stack((torch.arange(N), (torch.arange(N) + 1) % N), dim=1)
    assert load_balancing_loss(even, pairs) == pytest.approx(2)
    one = nn.functional.one_hot(torch.zeros(T, dtype=torch.int64), N).float()
    assert load_balancing_loss(one, torch.zeros(T, 1, dtype=torch.int64)) == N


def test_z_loss_is_zero_where_the_normaliser_is_one():
    assert z_loss(torch.randn(T, N).log_softmax(-1)) == pytest.approx(0, abs=1e-10)


def test_a_model_without_mixtures_has_no_losses():
    assert auxiliary_losses(nn.Linear(2, 2)) is None
    assert expert_statistics(nn.Linear(2, 2)) == {}


def test_nothing_is_kept_outside_training():
    model = routers().eval()
    run(model)
    with pytest.raises(ValueError, match="0 has routed nothing in training mode"):
        auxiliary_losses(model)


def test_statistics_count_choices_and_what_was_dropped():
    model = routers(replace(MIXTURE, capacity_factor=0.5))
    routings = run(model)
    statistics = expert_statistics(model)
    assert list(statistics) == ["0", "1"]
    for routing, layer in zip(routings, statistics.values(), strict=True):
        wanted = torch.bincount(routing.experts.flatten(), minlength=N)
        torch.testing.assert_close(layer.load, wanted / (2 * T))
        torch.testing.assert_close(layer.probability, routing.logits.softmax(-1).mean(0))
        assert layer.dropped.tolist() == (wanted - wanted.clamp(max=5)).tolist()


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_descending_the_balance_loss_evens_the_load(scoring):
    model = routers(replace(MIXTURE, scoring=scoring), count=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

    def spread():
        return expert_statistics(model)["0"].load.std()

    run(model)
    before = spread()
    for _ in range(60):
        run(model)
        optimizer.zero_grad()
        auxiliary_losses(model).balance.backward()
        optimizer.step()
    assert spread() < before / 2


def test_correcting_the_biases_evens_the_load_without_a_loss():
    model = routers(replace(MIXTURE, scoring="sigmoid", correction_bias=True), count=1)
    run(model)
    before = expert_statistics(model)["0"].load.std()
    for _ in range(200):
        correct_biases(model, rate=0.01)
        run(model)
    assert expert_statistics(model)["0"].load.std() < before / 2
    assert all(parameter.grad is None for parameter in model.parameters())


def test_routers_without_a_bias_are_left_alone():
    model = routers()
    run(model)
    state = copy.deepcopy(model.state_dict())
    correct_biases(model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_copy_leaves_the_last_routing_behind():
    model = routers()
    run(model)
    assert copy.deepcopy(model)[0].last is None
    assert model[0].last is not None
