"""Rollouts: what is sampled, judged, replaced and used how often; and that a state through JSON goes on exactly."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from vesalius.adapt.lora import LoraConfig, add_lora
from vesalius.align.logprobs import token_logprobs
from vesalius.align.policy.batch import PolicyBatch
from vesalius.align.policy.credit import CriticCredit, GroupCredit, Scores, as_it_is, at_ends
from vesalius.align.policy.episodes import Dialogue, Sampler
from vesalius.align.policy.kl import KLController
from vesalius.align.policy.objective import PolicyGradient
from vesalius.align.policy.ppo import ActorCritic, ProximalPolicy
from vesalius.align.policy.rollouts import RolloutPlan, Rollouts, RolloutStats
from vesalius.core.errors import UserError
from vesalius.data.batch import IGNORE
from vesalius.data.task import Task
from vesalius.models.config import ModelConfig
from vesalius.models.transformer import Transformer
from vesalius.tokenizers.bpe_training import train_bpe
from vesalius.tokenizers.tokenizer import Tokenizer
from vesalius.train.config import TrainConfig
from vesalius.train.loop import fit
from vesalius.train.optim.build import build_optimizer
from vesalius.train.schedules import build_schedule
from vesalius.train.training import Callback


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_bpe(train_bpe(["What is 3 + 4? It is 7. user assistant tool "] * 3, 280))


def fresh_model(tokenizer: Tokenizer, seed: int = 1) -> Transformer:
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=128, initializer_range=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    return Transformer(config, seed=seed)


def tasks(count: int) -> list[Task]:
    return [
        Task(messages=[{"role": "user", "content": f"What is {i}?"}], kind="exact", name=f"task {i}", split_key=f"{i}")
        for i in range(count)
    ]


def evenness(tasks: Sequence[Task], answers: Sequence[str]) -> list[float]:
    """1 for an answer of an even number of characters, else 0."""
    return [float(len(answer) % 2 == 0) for answer in answers]


def scores(model: Transformer, **settings) -> Scores:
    return Scores(**{"policy": model, "reference": None, "kl": KLController(0.0), "rows": 3} | settings)


def rollouts(model: Transformer, tokenizer: Tokenizer, *, judge=evenness, credit=None, count=7, **plan) -> Rollouts:
    sampler = Sampler(model, tokenizer, Dialogue(max_tokens=6, context=96))
    credit = credit or GroupCredit(scores=scores(model), compare="group")
    return Rollouts(tasks(count), sampler, judge, credit, RolloutPlan(**{"prompts": 3, "group": 4} | plan))


def learn(model: torch.nn.Module, batch: PolicyBatch) -> None:
    """Changes the weights in a way that depends on the batch."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * float(batch.advantages.sum() + batch.tokens.sum() % 7) * parameter.sign()


def same(one: PolicyBatch, other: PolicyBatch) -> bool:
    return one.to_json() == other.to_json()


def test_a_batch_has_a_row_for_each_answer_and_the_advantage_of_its_group(tokenizer):
    source = rollouts(fresh_model(tokenizer), tokenizer)
    batch = next(source)
    assert len(batch.tokens) == batch.weight == 12
    said = batch.targets != IGNORE
    for row in range(12):
        assert len(batch.advantages[row][said[row]].unique()) == 1
    assert not batch.advantages[~said].any()
    of_rows = torch.stack([batch.advantages[row][said[row]][0] for row in range(12)]).view(3, 4)
    torch.testing.assert_close(of_rows.sum(1), torch.zeros(3), atol=1e-5, rtol=0)
    assert batch.mean_length == int(said.sum()) / 12
    assert batch.old is None
    assert batch.source.startswith("answers to task ")


def test_stats_tell_of_all_that_was_sampled(tokenizer):
    source = rollouts(fresh_model(tokenizer), tokenizer)
    batch = next(source)
    lengths = (batch.targets != IGNORE).sum(1)
    assert source.stats["length"] == pytest.approx(float(lengths.float().mean()), abs=1e-6)
    assert source.stats["hit_rate"] == pytest.approx(3 / 4, abs=1e-12)
    assert 0 < source.stats["reward"] < 1
    assert source.stats["turns"] == 1


def test_an_epoch_has_every_task_once_in_an_order_of_its_own(tokenizer):
    source = rollouts(fresh_model(tokenizer), tokenizer, count=6, prompts=6, group=1, judge=lambda t, a: [0.0] * len(t))
    source.credit.compare = "batch_mean"
    seen = []
    original = source.judge
    source.judge = lambda t, a: (seen.append([task.name for task in t]), original(t, a))[1]
    next(source), next(source)
    assert sorted(seen[0]) == sorted(seen[1]) == [f"task {i}" for i in range(6)]
    assert seen[0] != seen[1]


@pytest.mark.parametrize("plan", [{}, {"epochs": 2, "minibatches": 3}], ids=["used once", "used six times"])
@pytest.mark.parametrize("kind", ["group", "critic"])
@pytest.mark.parametrize("before", [0, 1, 4, 6, 8])
def test_a_state_through_json_goes_on_exactly(before, kind, plan, tokenizer):
    """With the weights of that moment, which a checkpoint holds."""

    def made(seed: int) -> tuple[torch.nn.Module, Rollouts]:
        policy = fresh_model(tokenizer)
        of = scores(policy, reference=as_it_is(policy), kl=KLController(0.1, target=0.5, horizon=100), kl_in="reward")
        if kind == "group":
            return policy, rollouts(policy, tokenizer, credit=GroupCredit(scores=of, compare="group"), **plan)
        module = ActorCritic(policy, "head")
        return module, rollouts(policy, tokenizer, credit=CriticCredit(scores=of, model=module), **plan)

    model, source = made(0)
    for _ in range(before):
        learn(model, next(source))
    resumed_model, resumed = made(0)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    resumed_model.load_state_dict(model.state_dict())
    assert resumed.stats == source.stats
    for _ in range(4):
        one, other = next(source), next(resumed)
        assert same(one, other)
        assert resumed.credit.scores.kl.weight == source.credit.scores.kl.weight
        learn(model, one)
        learn(resumed_model, other)


def run_of(kind: str, tokenizer: Tokenizer, *, steps: int, precision: str = "float32") -> list[dict]:
    """The records of a run that rewards short answers, of which a random model writes a few."""
    policy = fresh_model(tokenizer)
    module: torch.nn.Module = policy if kind == "group" else ActorCritic(policy, "head")
    of = scores(policy, autocast=None if precision == "float32" else getattr(torch, precision))
    credit = GroupCredit(scores=of, compare="group") if kind == "group" else CriticCredit(scores=of, model=module)
    source = rollouts(
        policy, tokenizer, credit=credit, prompts=8, judge=lambda _, answers: [float(len(a) < 5) for a in answers]
    )
    objective = PolicyGradient() if kind == "group" else ProximalPolicy(policy=PolicyGradient())
    config = TrainConfig(
        steps=steps, learning_rate=5e-3, weight_decay=0.0, schedule="constant", precision=precision, compile="off"
    )
    records: list[dict] = []

    class Watch(Callback):
        def on_step(self, run, record):
            records.append(dict(record))

    optimizer, schedule = build_optimizer(module, config), build_schedule(config)
    fit(module, source, objective, optimizer, schedule, [RolloutStats(source), Watch()], config=config)
    return records


@pytest.mark.parametrize(("kind", "steps"), [("group", 25), ("critic", 50)])
def test_the_one_loop_raises_what_is_rewarded(kind, steps, tokenizer):
    rewards = [record["reward"] for record in run_of(kind, tokenizer, steps=steps)]
    assert sum(rewards[:3]) / 3 < 0.5
    assert sum(rewards[-3:]) / 3 > 0.9


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["group", "critic"])
def test_half_precision_stays_finite_and_near_the_engine(kind, precision, tokenizer):
    for record in run_of(kind, tokenizer, steps=4, precision=precision):
        assert all(math.isfinite(value) for value in record.values() if isinstance(value, float))
        assert record["importance"] == pytest.approx(1, abs=0.05)


def test_the_state_between_two_rollouts_holds_no_answers(tokenizer):
    source = rollouts(fresh_model(tokenizer), tokenizer, minibatches=2)
    next(source)
    assert source.state_dict()["batch"] is not None
    next(source)
    assert source.state_dict()["batch"] is None


def test_a_state_of_other_tasks_is_refused(tokenizer):
    source, other = (rollouts(fresh_model(tokenizer), tokenizer, count=count) for count in (7, 8))
    with pytest.raises(UserError, match="resume with the same"):
        other.load_state_dict(source.state_dict())


def test_minibatches_use_every_answer_once_an_epoch_with_fixed_old_log_probabilities(tokenizer):
    model = fresh_model(tokenizer)
    source = rollouts(model, tokenizer, epochs=2, minibatches=3)
    parts = []
    for _ in range(6):
        parts.append(next(source))
        learn(model, parts[-1])
    again = rollouts(fresh_model(tokenizer), tokenizer)
    again.credit = GroupCredit(scores=scores(again.sampler.model, kl_in="reward"), compare="group")
    whole = next(again)

    def rows(batch: PolicyBatch) -> list[tuple]:
        told = zip(batch.tokens, batch.targets, batch.old, strict=True)
        return sorted(tuple(t.tolist() + o[g != IGNORE].tolist()) for t, g, o in told for t in [t[g != IGNORE]])

    for epoch in (parts[:3], parts[3:]):
        assert sorted(row for part in epoch for row in rows(part)) == rows(whole)
        assert [len(part.tokens) for part in epoch] == [4, 4, 4]


def test_groups_of_equal_rewards_are_replaced_at_most_so_often(tokenizer):
    asked = []

    def judge(tasks: Sequence[Task], answers: Sequence[str]) -> list[float]:
        """Answers differ in worth for tasks of even numbers only."""
        asked.append(sorted({task.name for task in tasks}))
        return [float(int(task.name.split()[1]) % 2 == 0 and i % 2) for i, task in enumerate(tasks)]

    once = rollouts(fresh_model(tokenizer), tokenizer, judge=judge, count=40, prompts=4)
    next(once)
    equal = once.stats["equal_groups"]
    assert equal > 0
    asked.clear()
    source = rollouts(fresh_model(tokenizer), tokenizer, judge=judge, count=40, prompts=4, resamples=8)
    batch = next(source)
    assert len(batch.tokens) == 16
    assert batch.advantages.abs().sum(1).gt(0).all()
    assert len(asked) > 1
    asked.clear()
    hopeless = rollouts(
        fresh_model(tokenizer), tokenizer, judge=lambda t, a: asked.append(1) or [0.0] * len(t), resamples=2
    )
    batch = next(hopeless)
    assert len(asked) == 3
    assert len(batch.tokens) == 12
    assert not batch.advantages.any()


def test_answers_that_were_cut_off_are_kept_masked_or_punished(tokenizer):
    kept, masked, punished = (
        rollouts(fresh_model(tokenizer), tokenizer, overlong=name, overlong_tokens=2, judge=lambda t, a: [1.0] * len(t))
        for name in ("keep", "mask", "punish")
    )
    batch, without, lowered = next(kept), next(masked), next(punished)
    cut = (batch.targets != IGNORE).sum(1) == 6
    assert cut.any()
    assert masked.stats["truncated"] > 0
    assert torch.equal((without.targets != IGNORE).any(1), ~cut)
    assert not batch.advantages.any()
    groups, costs = lowered.advantages.sum(1).view(3, 4), cut.view(3, 4)
    for row, cost in zip(groups, costs, strict=True):
        if cost.any() and not cost.all():
            assert row[cost].max() < row[~cost].min()


def test_the_kl_in_the_reward_is_taken_token_by_token_by_a_critic(tokenizer):
    """float32, 1e-5. With values of 0 and no discount, the return is all that is still to come."""
    policy, other = fresh_model(tokenizer), fresh_model(tokenizer, seed=2)
    of = scores(policy, reference=as_it_is(other), kl=KLController(0.25), kl_in="reward")
    source = rollouts(policy, tokenizer, group=1, credit=CriticCredit(scores=of, model=ActorCritic(policy, "head")))
    source.credit.trace = 1.0
    batch = next(source)
    said = batch.targets != IGNORE
    with torch.no_grad():
        own, theirs = (token_logprobs(m.eval(), batch.tokens, batch.targets) for m in (policy, other))
    torch.testing.assert_close(batch.old, own, atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.reference, theirs, atol=1e-5, rtol=0)
    assert batch.kl_weight == 0
    rewards = (batch.returns + 0.25 * (own - theirs).flip(1).cumsum(1).flip(1))[said]
    assert torch.isclose(rewards, rewards.round(), atol=1e-4).all()  # 0 or 1: what the judge gave
    assert float(batch.advantages[said].mean()) == pytest.approx(0, abs=1e-5)


def test_the_kl_in_the_loss_has_the_controller_s_weight_which_follows_its_target(tokenizer):
    policy = fresh_model(tokenizer)
    of = scores(policy, reference=as_it_is(fresh_model(tokenizer, 2)), kl=KLController(0.1, target=1e-3, horizon=120))
    source = rollouts(policy, tokenizer, credit=GroupCredit(scores=of, compare="group"))
    assert next(source).kl_weight == 0.1
    assert source.stats["kl"] > 1e-3
    assert next(source).kl_weight == pytest.approx(0.1 * (1 + 0.2 * 12 / 120), rel=1e-12)


def test_the_reference_of_a_fresh_adapter_is_the_base_without_a_copy(tokenizer):
    model = fresh_model(tokenizer)
    tokens = torch.arange(12)[None]
    with torch.no_grad():  # as the reference is read: with gradients the products are others, and so are the last bits
        expected = model.eval()(tokens)
    add_lora(model, LoraConfig(lora_r=2))
    opened = as_it_is(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    assert not torch.equal(model.eval()(tokens), expected)
    with torch.no_grad(), opened() as reference:
        assert reference is model
        assert torch.equal(reference(tokens), expected)


def test_rewards_stand_at_the_last_token_of_an_answer():
    said = torch.tensor([[False, True, True, False], [False] * 4, [True, False, False, True]])
    expected = [[0.0, 0.0, 5.0, 0.0], [0.0] * 4, [0.0, 0.0, 0.0, 7.0]]
    assert at_ends(torch.tensor([5.0, 6.0, 7.0]), said).tolist() == expected


def test_tasks_without_room_are_named_and_none_left_is_an_error(tokenizer):
    model = fresh_model(tokenizer)
    long = replace(tasks(1)[0], name="long", messages=[{"role": "user", "content": "why? " * 50}])
    sampler = Sampler(model, tokenizer, Dialogue(max_tokens=6, context=64))
    credit = GroupCredit(scores=scores(model), compare="group")
    assert Rollouts([*tasks(2), long], sampler, evenness, credit, RolloutPlan()).dropped == ["long"]
    with pytest.raises(UserError, match="none of 1 tasks leaves room to answer in a context of 64"):
        Rollouts([long], sampler, evenness, credit, RolloutPlan())


def test_a_judge_that_is_not_finite_is_refused(tokenizer):
    source = rollouts(fresh_model(tokenizer), tokenizer, judge=lambda t, a: [float("nan")] * len(t))
    with pytest.raises(ValueError, match="not finite"):
        next(source)
