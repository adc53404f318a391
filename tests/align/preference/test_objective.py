"""Losses beyond TRL's, what a setting must be, and that a model learns what it is told to prefer."""

import dataclasses
import math

import pytest
import torch
from align.preferences import LAYOUT, pairs, ratings
from align.tiny_models import model_for

from vesalius.align.preference.kto import KTO
from vesalius.align.preference.losses import LOSSES, LossNumbers, PairLogprobs
from vesalius.align.preference.objective import Preference, pair_metrics
from vesalius.align.preference.pairs import PackedPairs, encode_pairs
from vesalius.align.preference.ratings import PackedRatings, encode_ratings
from vesalius.align.reference import FrozenCopy
from vesalius.align.rows.answers import answer_logprobs
from vesalius.align.rows.items import batch_of
from vesalius.core.errors import UserError
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.config import TrainConfig
from vesalius.train.loop import fit
from vesalius.train.optim.build import build_optimizer
from vesalius.train.schedules import build_schedule
from vesalius.train.training import Callback


def two(chosen=(-10.0, -12.0), rejected=(-11.0, -9.0), reference=((-10.5, -12.5), (-10.0, -10.0))) -> PairLogprobs:
    lengths = torch.tensor([4.0, 6.0]), torch.tensor([5.0, 3.0])
    return PairLogprobs(*map(torch.tensor, (chosen, rejected, *reference)), *lengths)


def logsigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def test_the_conservative_loss_is_the_expected_one_over_labels_that_may_be_wrong() -> None:
    numbers = LossNumbers(beta=0.5, label_smoothing=0.2)
    expected = [-0.8 * logsigmoid(0.5 * delta) - 0.2 * logsigmoid(-0.5 * delta) for delta in (1.5, -0.5)]
    found = LOSSES["conservative"].formula(two(), numbers)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_without_wrong_labels_the_robust_loss_is_dpo_s() -> None:
    plain, robust = (LOSSES[name].formula(two(), LossNumbers()) for name in ("sigmoid", "robust"))
    torch.testing.assert_close(robust, plain)


def test_the_odds_of_orpo_are_those_of_the_mean_token() -> None:
    def odds(mean: float) -> float:
        return math.exp(mean) / (1 - math.exp(mean))

    means = [(-10 / 4, -11 / 5), (-12 / 6, -9 / 3)]
    expected = [-0.3 * logsigmoid(math.log(odds(w) / odds(l))) for w, l in means]  # noqa: E741
    found = LOSSES["orpo"].formula(two(), LossNumbers(beta=0.3))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_stay_finite_for_answers_that_are_sure_or_hopeless(name: str) -> None:
    chosen, rejected = torch.tensor([-1e-6, -900.0]).requires_grad_(), torch.tensor([-900.0, -1e-6]).requires_grad_()
    pair = dataclasses.replace(two(), chosen=chosen, rejected=rejected)
    loss = LOSSES[name].formula(pair, LossNumbers(label_smoothing=0.1, beta=0.05)).mean()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, (chosen, rejected)))


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("aot", "aot_unpaired", "discopop")])
def test_a_loss_falls_where_the_chosen_answer_gains_on_the_rejected_one(name: str) -> None:
    """Of apo_down, which makes both less likely, only the rejected one's slope is told; discopop's changes its sign."""
    pair = two(chosen=(-10.4, -12.4), rejected=(-10.1, -10.1))
    chosen, rejected = pair.chosen.requires_grad_(), pair.rejected.requires_grad_()
    LOSSES[name].formula(pair, LossNumbers(label_smoothing=0.01)).sum().backward()
    assert (rejected.grad >= 0).all()
    assert name == "apo_down" or (chosen.grad <= 0).all()


def test_ties_count_half_in_accuracy() -> None:
    pair = two(chosen=(-1.0, -2.0), rejected=(-1.0, -3.0), reference=((-1.0, -2.0), (-1.0, -2.0)))
    assert float(pair_metrics(pair, 0.1)["accuracy"]) == 0.75


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "sigmod"}, "did you mean 'sigmoid'"),
        ({"loss": "sigmoid", "numbers": LossNumbers(label_smoothing=0.1)}, "not in the loss sigmoid; it is in conserv"),
        ({"loss": "conservative"}, "needs label_smoothing"),
        ({"loss": "exo_pair"}, "needs label_smoothing"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preference(**settings)


def test_a_reference_in_the_batch_is_the_one_that_is_used(tokenizer: Tokenizer) -> None:
    model, other = model_for(tokenizer).eval(), model_for(tokenizer, seed=1)
    batch = batch_of(encode_pairs(pairs(6), tokenizer, LAYOUT), [[0, 1], [2, 3]], LAYOUT)
    reference = FrozenCopy(other)
    computed, _ = Preference(reference=reference)(model, batch)
    given, _ = Preference()(model, dataclasses.replace(batch, reference=reference(model, batch)))
    assert torch.equal(computed, given)


@pytest.mark.parametrize("loss", [name for name, row in LOSSES.items() if not name.startswith("aot")])
def test_micro_batches_add_up_to_the_batch(loss: str, tokenizer: Tokenizer) -> None:
    """But for the added likelihood, a mean over tokens, which is switched off here."""
    model = model_for(tokenizer).eval()
    batch = batch_of(encode_pairs(pairs(6), tokenizer, LAYOUT), [[0, 1], [2, 3], [4]], LAYOUT)
    smoothing = 0.1 if LOSSES[loss].smoothing == "needed" else 0.0
    reference = FrozenCopy(model_for(tokenizer, seed=1))
    objective = Preference(
        loss=loss, numbers=LossNumbers(label_smoothing=smoothing), sft_weight=0.0, reference=reference
    )
    whole, metrics = objective(model, batch)
    parts = [(objective(model, part), part.weight / batch.weight) for part in batch.split(1)]
    torch.testing.assert_close(sum(part[0] * share for part, share in parts), whole)
    for name, value in metrics.items():
        torch.testing.assert_close(sum(part[1][name] * share for part, share in parts), value)


def train(model, batches, objective, steps: int) -> list[dict[str, float]]:
    """The records of a short run."""

    class Watch(Callback):
        records: list[dict[str, float]] = []

        def on_step(self, run, record) -> None:
            self.records.append(dict(record))

    watch = Watch()
    config = TrainConfig(steps=steps, learning_rate=3e-3, batch_tokens=256, context=128, precision="float32")
    fit(model, batches, objective, build_optimizer(model, config), build_schedule(config), [watch], config=config)
    return watch.records


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "simpo", "orpo"])
def test_a_model_learns_to_prefer(loss: str, tokenizer: Tokenizer) -> None:
    model = model_for(tokenizer)
    batches = PackedPairs(encode_pairs(pairs(40), tokenizer, LAYOUT), LAYOUT, seed=0)
    records = train(model, batches, Preference(loss=loss, reference=FrozenCopy(model)), 25)
    assert records[-1]["accuracy"] > 0.95
    assert records[-1]["margin"] > records[0]["margin"] + 0.1


def test_a_model_learns_from_ratings(tokenizer: Tokenizer) -> None:
    model = model_for(tokenizer)
    batches = PackedRatings(encode_ratings(ratings(40), tokenizer, LAYOUT), LAYOUT, seed=0)
    records = train(model, batches, KTO(reference=FrozenCopy(model)), 25)
    assert records[-1]["reward_chosen"] > records[-1]["reward_rejected"] + 0.1


def test_a_rating_is_right_where_its_reward_is_on_its_side_of_the_kl(tokenizer: Tokenizer) -> None:
    model, reference = model_for(tokenizer).eval(), FrozenCopy(model_for(tokenizer, seed=1))
    batch = next(PackedRatings(encode_ratings(ratings(40), tokenizer, LAYOUT), LAYOUT, seed=0))
    _, metrics = KTO(reference=reference)(model, batch)
    ratio = answer_logprobs(model, batch.answers).sums - reference(model, batch.answers)
    assert float(metrics["accuracy"]) == float(((ratio > metrics["kl"]) == batch.desirable).float().mean())
