"""KL estimators against the KL itself, which small distributions have in closed form; controllers against a loop."""

import pytest
import torch

from vesalius.align.policy.kl import ESTIMATORS, KLController


@pytest.fixture
def distributions() -> tuple[torch.Tensor, torch.Tensor]:
    """log-probabilities (7,) of a policy and a reference not far from it, float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(7, generator=generator, dtype=torch.float64)
    return logits.log_softmax(0), (logits + noise).log_softmax(0)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_the_mean_of_an_unbiased_estimator_is_the_kl(name, distributions):
    policy, reference = distributions
    expected = torch.nn.functional.kl_div(reference, policy, log_target=True, reduction="sum")
    assert float((policy.exp() * ESTIMATORS[name](policy, reference)).sum()) == pytest.approx(
        float(expected), abs=1e-12
    )


def test_k2_is_half_the_squared_logarithm_of_the_ratio(distributions):
    policy, reference = distributions
    expected = [(p - r) ** 2 / 2 for p, r in zip(policy.tolist(), reference.tolist(), strict=True)]
    assert ESTIMATORS["k2"](policy, reference).tolist() == pytest.approx(expected, abs=1e-15)


def test_k2_has_the_gradient_of_the_kl(distributions):
    """In expectation over samples whose distribution is held fixed."""
    logits, reference = distributions[0].clone().requires_grad_(), distributions[1]
    policy = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad((policy.detach().exp() * ESTIMATORS["k2"](policy, reference)).sum(), logits)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_k3_is_never_negative(distributions):
    policy, reference = distributions
    assert (ESTIMATORS["k3"](policy, reference) >= 0).all()


def test_a_weight_without_a_target_stays():
    controller = KLController(0.05)
    controller.update(100.0, 64)
    assert controller.weight == 0.05


def test_a_weight_with_a_target_follows_ziegler_s_rule():
    controller, expected = KLController(0.1, target=6.0, horizon=1000), 0.1
    for kl in (12.0, 6.6, 6.0, 5.4, 0.0):
        controller.update(kl, 64)
        error = kl / 6.0 - 1
        expected *= 1 + (0.2 if error > 0.2 else -0.2 if error < -0.2 else error) * 64 / 1000
        assert controller.weight == pytest.approx(expected, rel=1e-15)
