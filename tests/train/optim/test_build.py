"""The optimizer by name, and several that travel as one."""

import copy

import pytest
import torch

from vesalius.train.config import TrainConfig
from vesalius.train.objectives import NextToken
from vesalius.train.optim.adam import Adam
from vesalius.train.optim.build import build_optimizer
from vesalius.train.optim.combined import Combined
from vesalius.train.optim.lion import Lion
from vesalius.train.optim.muon import Muon
from vesalius.train.optim.sgd import SGD

KINDS = {"muon": Combined, "adamw": torch.optim.AdamW, "adam": Adam, "sgd": SGD, "lion": Lion}


def step(model, optimizer, batch):
    loss, _ = NextToken()(model, batch)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", KINDS)
def test_builds_what_is_named_and_every_weight_moves(name, tiny_model, random_batches):
    model = tiny_model()
    optimizer = build_optimizer(model, TrainConfig(steps=1, optimizer=name))
    assert type(optimizer) is KINDS[name]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(model, optimizer, next(random_batches()))
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []


def test_muon_has_the_matrices_and_adamw_the_rest(tiny_model):
    model = tiny_model()
    config = TrainConfig(steps=1, optimizer="muon", learning_rate=0.02, embedding_learning_rate=0.003)
    muon, adamw = build_optimizer(model, config).members
    assert isinstance(muon, Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {p.ndim for g in muon.param_groups for p in g["params"]} == {2}
    assert any(p is model.model.embed_tokens.weight for g in adamw.param_groups for p in g["params"])
    assert {g["lr"] for g in muon.param_groups} == {0.02}
    assert {g["lr"] for g in adamw.param_groups} == {0.003}


def test_combined_equals_its_members_apart(tiny_model, random_batches):
    together, apart = tiny_model(), tiny_model()
    config = TrainConfig(steps=1, optimizer="muon")
    combined, members = build_optimizer(together, config), build_optimizer(apart, config).members
    batches = random_batches()
    for batch in [next(batches) for _ in range(3)]:
        step(together, combined, batch)
        loss, _ = NextToken()(apart, batch)
        loss.backward()
        for member in members:
            member.step()
            member.zero_grad()
    for x, y in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(x, y)


def test_a_rate_set_from_outside_is_the_members_rate(tiny_model):
    optimizer = build_optimizer(tiny_model(), TrainConfig(steps=1, optimizer="muon"))
    for group in optimizer.param_groups:
        group["lr"] = 0.125
    assert {g["lr"] for member in optimizer.members for g in member.param_groups} == {0.125}


def test_one_state_for_all_goes_on_bit_for_bit(tiny_model, random_batches):
    config, batches = TrainConfig(steps=1, optimizer="muon"), random_batches()
    whole, resumed = tiny_model(), tiny_model()
    first, second = build_optimizer(whole, config), build_optimizer(resumed, config)
    step(whole, first, next(batches))
    resumed.load_state_dict(whole.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch keeps the tensors it is given
    batch = next(batches)
    for model, optimizer in ((whole, first), (resumed, second)):
        step(model, optimizer, batch)
    for x, y in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(x, y)
