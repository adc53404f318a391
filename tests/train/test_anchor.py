"""The penalty against its formula, and its gradient, which pulls back to where the model began."""

import pytest
import torch
from torch import nn

from vesalius.train.anchor import Anchored, squared_distance


def model() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    made[0].bias.requires_grad_(False)
    return made


def mean_square(model: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return model(batch).square().mean(), {"seen": torch.tensor(7.0)}


def test_the_penalty_is_half_the_weight_times_the_squared_distance():
    trained, batch = model(), torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    objective = Anchored.at(trained, mean_square, 0.3)
    before = nn.utils.parameters_to_vector(trained.parameters()).detach().clone()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.1 * torch.randn_like(parameter) if parameter.requires_grad else 0.0
    moved = nn.utils.parameters_to_vector(trained.parameters()) - before
    plain, _ = mean_square(trained, batch)
    loss, metrics = objective(trained, batch)
    assert loss.item() == pytest.approx((plain + 0.15 * moved.square().sum()).item(), rel=1e-6)
    assert metrics == {"seen": 7.0, "anchor": pytest.approx(moved.square().sum().item(), rel=1e-6)}
    assert not metrics["anchor"].requires_grad


def test_its_gradient_pulls_each_weight_that_trains_back():
    trained = model()
    start = {name: parameter.detach() - 0.5 for name, parameter in trained.named_parameters()}
    squared_distance(trained, start).backward()
    assert trained[0].bias.grad is None
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, 2 * (parameter.detach() - start[name]))


def test_where_it_began_nothing_pulls():
    trained, batch = model(), torch.ones(1, 3)
    loss, metrics = Anchored.at(trained, mean_square, 10.0)(trained, batch)
    assert loss.item() == mean_square(trained, batch)[0].item()
    assert metrics["anchor"] == 0


def test_what_it_is_held_to_does_not_move_along():
    trained = model()
    objective = Anchored.at(trained, mean_square, 1.0)
    with torch.no_grad():
        trained[1].bias += 2.0
    assert objective(trained, torch.ones(1, 3))[1]["anchor"].item() == pytest.approx(8.0)
