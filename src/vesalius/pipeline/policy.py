"""The stages that reinforce what a program finds right: GRPO and its kin, and PPO. They differ in who says what an
answer is worth beside the others; the rest is one function.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from torch import nn

from vesalius.adapt.switch import disabled, is_adapted
from vesalius.align.calculator import calculator
from vesalius.align.credit import Credit, CriticCredit, GroupCredit, Reference, Scores
from vesalius.align.episodes import Dialogue, Sampler, seed_of
from vesalius.align.kl import KLController
from vesalius.align.policy import COMPARISONS_OF, VARIANTS, PolicyGradient
from vesalius.align.ppo import ActorCritic, ProximalPolicy
from vesalius.align.rewards.compose import build_reward, judge_many
from vesalius.align.rollouts import Judge, RolloutPlan, Rollouts, RolloutStats
from vesalius.core.errors import UserError
from vesalius.data.split import is_validation
from vesalius.data.task import Task
from vesalius.data.tasks import read_tasks
from vesalius.hub.directory import save_model
from vesalius.models.transformer import Transformer
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.policy import GrpoSection, PolicySection, PpoSection, RewardsSection
from vesalius.pipeline.training import autocast, train_module
from vesalius.train.callbacks import Validation
from vesalius.train.objectives import Objective

TOOLS = {"calculator": calculator}

Measure = Callable[[], dict[str, float]]


def train_grpo(life: Life) -> None:
    """Reinforces by comparison, if the recipe has [grpo]."""
    section = life.recipe.grpo
    if section is None:
        return
    model = life.made[0]
    compare = section.compare or COMPARISONS_OF[section.variant]
    credit = GroupCredit(scores=_scores(life, section), compare=compare)
    _reinforce(life, "grpo", section, model, credit, grpo_objective(section))


def train_ppo(life: Life) -> None:
    """Reinforces with a critic, if the recipe has [ppo]."""
    section = life.recipe.ppo
    if section is None:
        return
    model = ActorCritic(life.made[0], section.critic)
    credit = CriticCredit(scores=_scores(life, section), model=model, discount=section.discount, trace=section.trace)
    _reinforce(life, "ppo", section, model, credit, ppo_objective(section))


def grpo_objective(section: GrpoSection) -> PolicyGradient:
    """The variant, with what the section changes of it."""
    variant = _common(PolicyGradient(**VARIANTS[section.variant]), section)
    return replace(
        variant,
        epsilon_low=section.epsilon_low or variant.epsilon_low,
        epsilon_high=section.epsilon_high or variant.epsilon_high,
        kl_estimator=section.kl_estimator,
    )


def ppo_objective(section: PpoSection) -> ProximalPolicy:
    """PPO's loss with the section's settings."""
    policy = PolicyGradient(division="mean_length", epsilon_low=section.epsilon, epsilon_high=section.epsilon)
    return ProximalPolicy(
        policy=_common(policy, section), value_weight=section.value_weight, value_clip=section.value_clip
    )


def _common(policy: PolicyGradient, section: PolicySection) -> PolicyGradient:
    return replace(
        policy,
        entropy_weight=section.entropy_weight,
        importance_cap=section.importance_cap,
        most_tokens=section.max_tokens * section.turns,
        temperature=section.temperature,
    )


def _reinforce(
    life: Life, stage: str, section: PolicySection, module: nn.Module, credit: Credit, objective: Objective
) -> None:
    """Trains `module`, which is the model or holds it, measures it before and after, and saves the model."""
    model, tokenizer = life.made
    train, held_out = split_tasks(life)
    dialogue = Dialogue(
        max_tokens=section.max_tokens,
        context=section.context,
        temperature=section.temperature,
        tool=TOOLS[section.tool] if section.tool else None,
        turns=section.turns,
    )
    sampler = Sampler(model, tokenizer, dialogue)
    plan = RolloutPlan(
        prompts=section.prompts,
        group=section.group,
        epochs=section.epochs,
        minibatches=section.minibatches,
        seed=section.seed,
        resamples=section.resamples,
        overlong=section.overlong,
        overlong_tokens=section.overlong_tokens,
    )
    rollouts = Rollouts(train, sampler, judge_of(section.rewards), credit, plan)
    if rollouts.dropped:
        life.display.say(
            f"{len(rollouts.dropped)} of {len(train)} tasks leave no room to answer in {section.context} tokens: they "
            f"are left out (first: {rollouts.dropped[0]})"
        )
    measure = _measure(section, sampler, held_out)
    _record(life, stage, "before", measure)
    watchers = [RolloutStats(rollouts), Validation(section.validate_every, lambda _: measure())]
    train_module(life, stage, section, module, rollouts, objective, watchers)
    save_model(life.run.model, model.eval(), tokenizer)
    _record(life, stage, "after", measure)


def split_tasks(life: Life) -> tuple[list[Task], list[Task]]:
    """The recipe's tasks, those of training and those held out. UserError where a side has none."""
    data = life.recipe.data
    sides: dict[bool, list[Task]] = {False: [], True: []}
    for task in read_tasks(data.tasks):
        sides[is_validation(task.split_key, data.validation_fraction)].append(task)
    if not sides[False] or not sides[True]:
        raise UserError(
            f"of {len(sides[False]) + len(sides[True])} tasks none is left to {'measure' if sides[False] else 'train'} "
            f"on at validation_fraction = {data.validation_fraction}: change it, or give more tasks"
        )
    return sides[False], sides[True]


def judge_of(section: RewardsSection) -> Judge:
    """What answers earn by a section. UserError for a reward that does not exist."""
    reward = build_reward(
        section.weights,
        where=section.where,
        partial=section.partial,
        free_length=section.free_length,
        most_length=section.most_length,
    )
    return lambda tasks, answers: [float(verdict) for verdict in judge_many(reward, tasks, answers)]


def _measure(section: PolicySection, sampler: Sampler, held_out: Sequence[Task]) -> Measure:
    """The mean verified reward of the likeliest answers to held-out tasks, and of drawn ones, always by the same
    seeds."""
    judge = judge_of(RewardsSection(where=section.rewards.where))
    tasks = held_out[: section.measured_tasks]
    greedy = Sampler(sampler.model, sampler.tokenizer, replace(sampler.dialogue, temperature=0.0))

    def measure() -> dict[str, float]:
        means = {}
        for name, by in {"reward": greedy, "sampled_reward": sampler}.items():
            seeds = [seed_of(section.seed, place) for place in range(len(tasks))]
            groups = by.sample([task.messages for task in tasks], 1, seeds)
            rewards = judge(tasks, [episode.answer for (episode,) in groups])
            means[name] = sum(rewards) / len(rewards)
        return means

    return measure


def _record(life: Life, stage: str, when: str, measure: Measure) -> None:
    """Writes what is measured now into evals.json, where it is not there yet."""
    if when not in life.results("verified_reward").get(stage, {}):
        with life.timed("eval"), life.display.stage(f"solving held-out tasks {when} {stage}"):
            before = life.results("verified_reward").get(stage, {})
            life.add("verified_reward", **{stage: {**before, when: measure()}})


def _scores(life: Life, section: PolicySection) -> Scores:
    return Scores(
        policy=life.made[0],
        reference=reference_of(life.made[0]) if section.reference else None,
        kl=KLController(section.kl_weight, section.kl_target, section.kl_horizon),
        kl_in=section.kl_in,
        temperature=section.temperature,
        rows=section.micro_batch_rows or 16,
        autocast=autocast(life, section),
    )


def reference_of(model: Transformer) -> Reference:
    """The model as it is now, while it goes on: without its adapter where it has one, else a frozen copy."""
    if is_adapted(model):

        @contextlib.contextmanager
        def base() -> Iterator[Transformer]:
            with disabled(model):
                yield model

        return base
    frozen = copy.deepcopy(model).requires_grad_(False)
    return lambda: contextlib.nullcontext(frozen)
