"""The surrogates of policy gradients against their formulas, token by token; micro-batches; what is clipped."""

import math
from dataclasses import replace

import pytest
import torch

from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.objective import COMPARISONS_OF, VARIANTS, PolicyGradient
from vesalius.align.policy.ppo import ProximalPolicy
from vesalius.data.batch import IGNORE

B, T = 4, 7
LENGTHS = [[1, 2, 3], [0, 1, 2, 3, 4, 5, 6], [], [2, 5]]
"""Where each row has targets: one row was cut off and masked, one speaks twice."""


@pytest.fixture
def batch() -> PolicyBatch:
    """float64, ratios far enough from 1 that all bounds are met."""
    generator = torch.Generator().manual_seed(0)
    said = torch.zeros(B, T, dtype=torch.bool)
    for row, places in enumerate(LENGTHS):
        said[row, places] = True

    def drawn(scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(B, T, generator=generator, dtype=torch.float64) * said

    old = -drawn().abs()
    return PolicyBatch(
        tokens=torch.ones(B, T, dtype=torch.int64),
        targets=torch.ones(B, T, dtype=torch.int64).where(said, IGNORE),
        sampled=old + drawn(0.2),
        advantages=drawn(),
        old=old,
        reference=old + drawn(0.3),
        values=drawn(),
        returns=drawn(),
        mean_length=12 / 4,
    )


@pytest.fixture
def logp(batch: PolicyBatch) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    moved = 0.4 * torch.randn(B, T, generator=generator, dtype=torch.float64)
    return (batch.old + moved * (batch.targets != IGNORE)).requires_grad_()


def plainly(loss: PolicyGradient, logp: torch.Tensor, batch: PolicyBatch) -> float:
    """The papers' sums, one token after the other."""
    total = 0.0
    for row, places in enumerate(LENGTHS):
        moved = {t: float(logp[row, t] - batch.old[row, t]) for t in places}
        whole = sum(moved.values())
        for t in places:
            ratio = math.exp({"token": moved[t], "answer": whole, "answer_mean": whole / len(places)}[loss.ratio])
            advantage, value = float(batch.advantages[row, t]), float(logp[row, t])
            clipped = min(max(ratio, 1 - loss.epsilon_low), 1 + loss.epsilon_high)
            lost = {
                "clip": -min(ratio * advantage, clipped * advantage),
                "capped": -min(ratio, loss.epsilon_high) * advantage * value,
                "score": -advantage * value,
            }[loss.surrogate]
            if loss.importance_cap is not None:
                lost *= min(math.exp(float(batch.old[row, t] - batch.sampled[row, t])), loss.importance_cap)
            log_r = float(batch.reference[row, t]) - value
            lost += batch.kl_weight * (math.exp(log_r) - log_r - 1) * (ratio if loss.kl_corrected else 1)
            divisor = {
                "own_length": len(places), "mean_length": 3, "most_tokens": loss.most_tokens, "nothing": 1,
            }[loss.division]  # fmt: skip
            total += lost / divisor
    return total / B


@pytest.mark.parametrize("cap", [None, 1.1])
@pytest.mark.parametrize(("kl_weight", "corrected"), [(0.0, True), (0.3, True), (0.3, False)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_its_sum_over_tokens(variant, kl_weight, corrected, cap, batch, logp):
    loss = replace(PolicyGradient(**VARIANTS[variant]), importance_cap=cap, kl_corrected=corrected, most_tokens=9)
    batch = replace(batch, kl_weight=kl_weight)
    found, _ = loss.of(logp, torch.zeros_like(logp), batch)
    assert float(found.detach()) == pytest.approx(plainly(loss, logp.detach(), batch), abs=1e-12)


def test_each_variant_is_compared_in_some_way():
    assert COMPARISONS_OF.keys() == VARIANTS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_micro_batches_weigh_so_that_their_mean_is_the_whole_batch_s(variant, batch, logp):
    loss = replace(PolicyGradient(**VARIANTS[variant]), most_tokens=9, entropy_weight=0.1)
    entropy = logp.detach().square()
    whole, whole_metrics = loss.of(logp, entropy, batch)
    total, metrics = 0.0, dict.fromkeys(whole_metrics, 0.0)
    for rows in ([0], [1, 2], [3]):
        part = batch.rows(torch.tensor(rows))
        width = part.tokens.shape[1]
        found, told = loss.of(logp[rows, :width], entropy[rows, :width], part)
        total += float(found.detach()) * part.weight / batch.weight
        metrics = {name: metrics[name] + float(told[name]) * part.weight / batch.weight for name in metrics}
    assert total == pytest.approx(float(whole.detach()), abs=1e-12)
    assert metrics == pytest.approx({name: float(value) for name, value in whole_metrics.items()}, abs=1e-6)


def test_without_old_log_probabilities_the_first_update_s_ratios_are_1(batch, logp):
    fresh, same = replace(batch, old=None), replace(batch, old=logp.detach())
    loss = PolicyGradient()
    (one,) = torch.autograd.grad(loss.of(logp, torch.zeros_like(logp), fresh)[0], logp)
    (other,) = torch.autograd.grad(loss.of(logp, torch.zeros_like(logp), same)[0], logp)
    assert torch.equal(one, other)
    said = (batch.targets != IGNORE).sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(one, -batch.advantages / said / B, atol=1e-15, rtol=0)


def test_clipped_tokens_have_no_gradient_and_are_counted(batch, logp):
    loss = PolicyGradient(division="mean_length")
    found, metrics = loss.of(logp, torch.zeros_like(logp), batch)
    (gradient,) = torch.autograd.grad(found, logp)
    said = batch.targets != IGNORE
    assert float(metrics["clip_fraction"]) == pytest.approx(float((gradient[said] == 0).double().mean()), abs=1e-6)
    assert 0 < float(metrics["clip_fraction"]) < 1


def test_a_masked_row_changes_no_gradient(batch, logp):
    (gradient,) = torch.autograd.grad(PolicyGradient().of(logp, torch.zeros_like(logp), batch)[0], logp)
    assert not gradient[2].any()
    assert not gradient[batch.targets == IGNORE].any()


def test_the_entropy_bonus_is_the_mean_over_tokens(batch, logp):
    entropy = logp.detach().square().requires_grad_()
    found, metrics = PolicyGradient(entropy_weight=0.5).of(logp, entropy, batch)
    (gradient,) = torch.autograd.grad(found, entropy)
    said = batch.targets != IGNORE
    torch.testing.assert_close(gradient, -0.5 * said.double() / said.sum(), atol=1e-15, rtol=0)
    assert float(metrics["entropy"]) == pytest.approx(float(entropy[said].mean()), abs=1e-12)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_critic_s_loss_equals_ppo_s_formula(clip, batch):
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(B, T, generator=generator, dtype=torch.float64)
    found = ProximalPolicy(policy=PolicyGradient(), value_clip=clip).value_losses(values, batch)
    for row, places in enumerate(LENGTHS):
        for t in places:
            value, old, target = (float(x[row, t]) for x in (values, batch.values, batch.returns))
            near = min(max(value, old - 0.2), old + 0.2) if clip else value
            expected = 0.5 * max((value - target) ** 2, (near - target) ** 2)
            assert float(found[row, t]) == pytest.approx(expected, abs=1e-12)


def test_a_batch_through_json_is_the_same(batch):
    again = PolicyBatch.from_json({**batch.to_json(), "old": None})
    assert torch.equal(again.targets, batch.targets)
    assert again.sampled.dtype == torch.float32
    assert torch.equal(again.sampled, batch.sampled.float())
    assert again.mean_length == batch.mean_length
    assert again.old is None
