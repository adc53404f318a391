"""[grpo] and [ppo]: reinforcement by rewards that a program can check, without and with a critic."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vesalius.align.policy.objective import VARIANTS
from vesalius.core.errors import nearest
from vesalius.core.recipes import Section
from vesalius.train.config import Count, Fraction, GuardConfig, NotNegative, Positive, TrainConfig

Whole = Annotated[int, Field(ge=0)]


class RewardsSection(Section):
    """What an answer earns (align/rewards/compose): the weight of each reward by its name, where in an answer the
    result stands, whether some of a program's tests count, and from which to which length in characters it loses all.

    weights  of verified, format, tags, and of what `model` says
    model    a reward model: a run of `vesalius run reward`, or a directory (align/rewards/learned)
    """

    weights: dict[str, float] = {"verified": 1.0}
    model: str | None = None
    where: str = "last"
    partial: bool = False
    free_length: Count | None = None
    most_length: Count | None = None

    @model_validator(mode="after")
    def _check_model(self) -> "RewardsSection":
        if (self.model is None) == ("model" in self.weights):
            raise ValueError(
                f"model = {self.model!r} with weights of {', '.join(self.weights)}: a reward model needs a weight by "
                'the name "model", and that name a reward model'
            )
        return self


class PolicySection(TrainConfig):
    """What both have in common. `context` holds prompt and answers; `batch_tokens` is not read: an update has
    prompts · group / minibatches rows.

    prompts, group       tasks a rollout, and answers to each
    max_tokens           of one turn of the assistant
    temperature          that answers are drawn at
    epochs, minibatches  how often a rollout is used, and in how many updates each time
    resamples            rounds in which groups whose answers are all worth the same are replaced
    overlong             what becomes of an answer that was cut off: it is kept, masked, or punished
    overlong_tokens      the last tokens before the most, along which the punishment grows
    reference            whether the model that the policy began as is kept, to tell how far it went
    kl_weight, kl_in     of the KL to it, and whether it is a part of the reward or of the loss
    kl_target            nats an answer that the weight is controlled towards; None: it stays
    entropy_weight       of the entropy bonus
    importance_cap       of the engine's log-probabilities against the trainer's; None: they are taken as the same
    tool, turns          what the assistant may call between its turns, and how many it has
    measured_tasks       held-out tasks that the model is measured on: whether it is right, what the rewards make of its
                         answers, how far they are from those that it began with, and how different from one another
    """

    prompts: Count = 16
    group: Count = 8
    max_tokens: Count = 64
    temperature: Positive = 1.0
    epochs: Count = 1
    minibatches: Count = 1
    resamples: Whole = 0
    overlong: Literal["keep", "mask", "punish"] = "keep"
    overlong_tokens: Count = 16
    reference: bool = True
    kl_weight: NotNegative = 0.0
    kl_in: Literal["loss", "reward"] = "loss"
    kl_target: Positive | None = None
    kl_horizon: Count = 10_000
    entropy_weight: NotNegative = 0.0
    importance_cap: Positive | None = None
    tool: Literal["calculator"] | None = None
    turns: Count = 1
    rewards: RewardsSection = RewardsSection()
    measured_tasks: Count = 200

    weight_decay: NotNegative = 0.0
    guard: GuardConfig = GuardConfig(spike_z=0.0)  # a loss around 0 has no usual size
    compile: Literal["auto", "on", "off"] = "off"  # every rollout has another shape
    validate_every: Count = 20

    @property
    def batch_rows(self) -> int:
        """Answers in an update."""
        return -(-self.prompts * self.group // self.minibatches)

    @model_validator(mode="after")
    def _check_batch(self) -> "PolicySection":
        if self.minibatches > self.prompts * self.group:
            raise ValueError(f"minibatches = {self.minibatches} of {self.prompts * self.group} answers: lower it")
        if self.tokens is not None:
            raise ValueError("a budget in tokens is not known before they are written: give steps or minutes")
        return self

    @model_validator(mode="after")
    def _check_policy(self) -> "PolicySection":
        if (self.kl_weight or self.kl_target) and not self.reference:
            raise ValueError("kl_weight or kl_target is set, and no reference is kept: set reference = true")
        if self.kl_target is not None and not self.kl_weight:
            raise ValueError("kl_target controls kl_weight by factors, so that must not begin at 0: give kl_weight")
        if self.importance_cap is not None and self.temperature != 1:
            raise ValueError(
                f"importance_cap with temperature = {self.temperature}: the engine tells probabilities at 1, use that"
            )
        if (self.tool is None) != (self.turns == 1):
            raise ValueError(
                f"tool = {self.tool!r} with turns = {self.turns}: more turns than one go with a tool, and only with it"
            )
        return self


class GrpoSection(PolicySection):
    """Answers are compared with others to the same prompt.

    variant                    reinforce, rloo, grpo, dapo, dr_grpo, gspo or cispo (align/policy/objective)
    compare                    batch_mean, leave_one_out, group or group_mean; None: the variant's
    epsilon_low, epsilon_high  how far a probability may move; None: the variant's
    kl_estimator, kl_corrected  of the loss: which one, and whether it is weighed by the ratio
    """

    variant: str = "grpo"
    compare: Literal["batch_mean", "leave_one_out", "group", "group_mean"] | None = None
    epsilon_low: Positive | None = None
    epsilon_high: Positive | None = None
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_corrected: bool = True

    @model_validator(mode="after")
    def _check_variant(self) -> "GrpoSection":
        if self.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.variant!r}, {nearest(self.variant, VARIANTS)}")
        if self.group == 1 and self.compare != "batch_mean" and self.variant != "reinforce":
            raise ValueError("group = 1 leaves nothing to compare an answer with: raise it, or compare = 'batch_mean'")
        return self


class PpoSection(PolicySection):
    """A critic says what to expect at each token.

    critic           head: a line on the policy's hidden states; decoder: a copy of the policy's decoder
    epsilon          how far a probability may move
    discount, trace  γ and λ of GAE
    value_weight     of the critic's loss
    value_clip       how far a value may move in the updates of one rollout; None: freely
    """

    prompts: Count = 128
    group: Count = 1
    epochs: Count = 2
    minibatches: Count = 2
    kl_in: Literal["loss", "reward"] = "reward"

    critic: Literal["head", "decoder"] = "head"
    epsilon: Positive = 0.2
    discount: Fraction = 1.0
    trace: Fraction = 0.95
    value_weight: NotNegative = 0.5
    value_clip: Positive | None = 0.2
