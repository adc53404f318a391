"""The stages that reinforce what a program finds right: GRPO and its kin, and PPO. They differ in who says what an
answer is worth beside the others; the rest is one function.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from torch import nn

from vesalius.align.policy.calculator import calculator
from vesalius.align.policy.credit import Credit, CriticCredit, GroupCredit, Scores, as_it_is
from vesalius.align.policy.episodes import Dialogue, Sampler
from vesalius.align.policy.kl import KLController
from vesalius.align.policy.objective import COMPARISONS_OF, VARIANTS, PolicyGradient
from vesalius.align.policy.ppo import ActorCritic, ProximalPolicy
from vesalius.align.policy.rollouts import Judge, RolloutPlan, Rollouts, RolloutStats
from vesalius.align.rewards.compose import build_reward, judge_many
from vesalius.align.rewards.learned import open_reward
from vesalius.core.errors import UserError
from vesalius.data.split import split_items
from vesalius.data.task import Task
from vesalius.data.tasks import read_tasks
from vesalius.hub.directory import save_model
from vesalius.pipeline.held_out_tasks import HeldOutTasks, draw_curve
from vesalius.pipeline.life import Life
from vesalius.pipeline.recipe_sections.policy import GrpoSection, PolicySection, PpoSection, RewardsSection
from vesalius.pipeline.training import autocast_of, train_module
from vesalius.train.callbacks import Validation
from vesalius.train.objectives import Objective

TOOLS = {"calculator": calculator}


def grpo(life: Life) -> None:
    """Reinforces by comparison, if the recipe has [grpo]."""
    section = life.recipe.grpo
    if section is None:
        return
    model = life.made[0]
    compare = section.compare or COMPARISONS_OF[section.variant]
    credit = GroupCredit(scores=_scores(life, section), compare=compare)
    _reinforce(life, "grpo", section, model, credit, grpo_objective(section))


def ppo(life: Life) -> None:
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
        kl_corrected=section.kl_corrected,
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
    train, held_out = split_items(read_tasks(life.recipe.data.tasks), life.recipe.data.validation_fraction, "tasks")
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
    judge = judge_of(section.rewards, life.device)
    rollouts = Rollouts(train, sampler, judge, credit, plan)
    if rollouts.dropped:
        life.display.say(
            f"{len(rollouts.dropped)} of {len(train)} tasks leave no room to answer in {section.context} tokens: they "
            f"are left out (first: {rollouts.dropped[0]})"
        )
    measured = _held_out_tasks(section, sampler, judge, credit, held_out)
    _record(life, stage, "before", measured)
    watchers = [RolloutStats(rollouts), Validation(section.validate_every, lambda _: measured.numbers())]
    train_module(life, stage, section, module, rollouts, objective, watchers)
    save_model(life.run.model, model.eval(), tokenizer)
    _record(life, stage, "after", measured)
    draw_curve(life, stage)


def judge_of(section: RewardsSection, device: str = "cpu") -> Judge:
    """What answers earn by a section. UserError for a reward that does not exist."""
    reward = build_reward(
        section.weights,
        where=section.where,
        partial=section.partial,
        free_length=section.free_length,
        most_length=section.most_length,
        learned=None if section.model is None else open_reward(section.model, device),
    )
    return lambda tasks, answers: [float(verdict) for verdict in judge_many(reward, tasks, answers)]


def _held_out_tasks(
    section: PolicySection, sampler: Sampler, judge: Judge, credit: Credit, held_out: Sequence[Task]
) -> HeldOutTasks:
    """UserError where none of the tasks that were held out leaves room to answer."""
    tasks = list(islice((task for task in held_out if sampler.fits(task.messages)), section.measured_tasks))
    if not tasks:
        raise UserError(f"none of {len(held_out)} held-out tasks can be measured: raise data.validation_fraction")
    gold = RewardsSection(where=section.rewards.where)
    return HeldOutTasks(
        tasks=tasks,
        drawn=sampler,
        likeliest=Sampler(sampler.model, sampler.tokenizer, replace(sampler.dialogue, temperature=0.0)),
        gold=judge_of(gold),
        proxy=None if section.rewards == gold else judge,
        scores=credit.scores,
        seed=section.seed,
    )


def _record(life: Life, stage: str, when: str, measured: HeldOutTasks) -> None:
    """Writes what is measured now into evals.json, where it is not there yet."""
    if when not in life.results(stage):
        with life.timed("eval"), life.display.stage("solving held-out tasks"):
            life.add(stage, held_out=len(measured.tasks), **{when: measured.everything()})


def _scores(life: Life, section: PolicySection) -> Scores:
    return Scores(
        policy=life.made[0],
        reference=as_it_is(life.made[0]) if section.reference else None,
        kl=KLController(section.kl_weight, section.kl_target, section.kl_horizon),
        kl_in=section.kl_in,
        temperature=section.temperature,
        rows=section.micro_batch_rows,
        autocast=autocast_of(life, section),
    )
