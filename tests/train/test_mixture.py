"""Training a mixture of experts: the objective adds its losses, the loop records them, compiling changes nothing."""

import copy

import pytest
import torch

from vesalius.core.errors import UserError
from vesalius.data.batch import Batch
from vesalius.models.balance import auxiliary_losses, expert_statistics
from vesalius.models.config_sections import Mixture
from vesalius.train.callbacks import ExpertLoad
from vesalius.train.objectives import NextToken

MIXTURE = Mixture(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16)
BOTH = NextToken(moe_balance=0.1, moe_z=0.01)


@pytest.fixture
def mixture_model(tiny_model):
    return tiny_model(mixture=MIXTURE)


def batch(seed=0):
    tokens = torch.randint(64, (4, 17), generator=torch.Generator().manual_seed(seed))
    return Batch(tokens=tokens[:, :-1], targets=tokens[:, 1:])


def test_the_losses_are_added_with_their_weights(mixture_model):
    plain, nothing = NextToken()(mixture_model, batch())
    loss, metrics = BOTH(mixture_model, batch())
    losses = auxiliary_losses(mixture_model)
    torch.testing.assert_close(loss, plain + 0.1 * losses.balance + 0.01 * losses.z)
    assert nothing == {}
    assert metrics == {
        "cross_entropy": pytest.approx(plain.item()),
        "moe_balance": losses.balance.item(),
        "moe_z": losses.z.item(),
    }
    assert not any(metric.requires_grad for metric in metrics.values())


def test_their_gradients_reach_the_routers(mixture_model):
    gradients = []
    for objective in (NextToken(), BOTH):
        mixture_model.zero_grad()
        objective(mixture_model, batch())[0].backward()
        gradients.append(mixture_model.model.layers[0].mlp.gate.weight.grad.clone())
    assert (gradients[0] - gradients[1]).abs().max() > 1e-5


def test_a_model_without_a_mixture_is_refused_them(tiny_model):
    with pytest.raises(UserError, match="the model has no mixture of experts"):
        BOTH(tiny_model(), batch())


def test_it_learns_with_an_even_load_and_the_loop_records_the_losses(train, tiny_model, random_batches):
    class Same(random_batches):
        def __next__(self):
            self.index = 0
            return super().__next__()

    model = tiny_model(mixture=MIXTURE)
    _, recorder = train(model=model, batches=Same(), objective=BOTH, steps=60, learning_rate=1e-2)
    assert recorder.steps[-1]["cross_entropy"] < 0.1 * recorder.steps[0]["cross_entropy"]
    assert recorder.steps[-1]["moe_balance"] == pytest.approx(2, abs=0.2)
    assert all(layer.load.max() < 0.5 for layer in expert_statistics(model).values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_load_of_the_experts_is_in_every_record(train, tiny_model):
    limited = Mixture(**{**vars(MIXTURE), "capacity_factor": 0.5})
    for mixture in (MIXTURE, limited):
        model = tiny_model(mixture=mixture)
        _, recorder = train(ExpertLoad(), model=model, steps=2)
        layers = expert_statistics(model).values()
        last = recorder.steps[-1]
        assert last["moe_load"] == pytest.approx(max(4 * layer.load.max().item() for layer in layers))
        assert 1 <= last["moe_load"] <= 2  # of four experts, half of all choices at most
        chosen = sum(layer.dropped.sum().item() for layer in layers)
        assert (last["moe_dropped"] > 0) == (chosen > 0) == (mixture is limited)
        assert last["moe_dropped"] <= 0.75  # half of the even share of each is taken, if only by one


def test_micro_batches_have_the_same_cross_entropy(train, tiny_model):
    records = [
        train(model=tiny_model(mixture=MIXTURE), objective=BOTH, steps=1, micro_batch_rows=rows)[1].steps[0]
        for rows in (None, 2)
    ]
    assert records[0]["cross_entropy"] == pytest.approx(records[1]["cross_entropy"], rel=1e-5)


@pytest.mark.slow  # dynamo traces it in pieces, since the sizes of the groups are numbers on the host
@pytest.mark.parametrize("capacity_factor", [0.0, 1.0])
def test_a_compiled_step_has_the_same_loss_and_gradients(tiny_model, capacity_factor):
    config = {**vars(MIXTURE), "capacity_factor": capacity_factor}
    model = tiny_model(mixture=Mixture(**config))
    other = copy.deepcopy(model)
    compiled = torch.compile(lambda m, b: BOTH(m, b), backend="eager", dynamic=False)
    for seed in range(3):
        (loss, metrics), (expected, _) = compiled(model, batch(seed)), BOTH(other, batch(seed))
        torch.testing.assert_close(loss, expected)
        assert metrics.keys() == {"cross_entropy", "moe_balance", "moe_z"}
        loss.backward()
        expected.backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-6, rtol=1e-5)


def test_bfloat16_autocast_trains_it(mixture_model):
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = BOTH(mixture_model, batch())
    exact, _ = BOTH(mixture_model, batch())
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
    assert mixture_model.model.layers[0].mlp.experts.up_proj.grad.dtype == torch.float32
