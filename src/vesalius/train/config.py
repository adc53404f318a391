"""The [train] section of a recipe: every number that the loop, the optimizer, the schedule and the guard need."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from vesalius.core.recipes import Section
from vesalius.train.optim.muon import Scale

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class GuardConfig(Section):
    """When a step is distrusted, and what is done about it (guard.py).

    window      healthy steps that "usual" is judged by
    spike_z     robust deviations above usual at which a loss or gradient norm is a spike; 0 lets spikes pass
    skips       bad steps in a row that are only skipped; at one more, the run goes back to a checkpoint
    rollbacks   times that the run goes back before it gives up, counted until a whole window was healthy
    rate_factor what the learning rate is multiplied by at each way back
    """

    model_config = ConfigDict(strict=True)

    window: Annotated[int, Field(ge=8)] = 64
    spike_z: NotNegative = 10.0
    skips: Annotated[int, Field(ge=0)] = 3
    rollbacks: Annotated[int, Field(ge=0)] = 3
    rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5


class TrainConfig(Section):
    """How long, how fast, on what, and how carefully. Exactly one of `steps`, `tokens` and `minutes` is the budget.

    A budget in minutes is the time a person waits: validation, checkpoints and compiling are inside it.
    """

    model_config = ConfigDict(strict=True)

    steps: Count | None = None
    tokens: Count | None = None
    minutes: Positive | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    optimizer: Literal["muon", "adamw", "adam", "sgd", "lion"] = "adamw"
    learning_rate: Positive = 1e-3
    embedding_learning_rate: Positive | None = None  # embeddings, head, norms, biases; None: learning_rate
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] | None = None  # None: 0.9, 0.95, and for Lion 0.9, 0.99
    eps: Positive = 1e-8
    momentum: Beta = 0.95  # of SGD and Muon
    weight_decay: NotNegative = 0.1
    embedding_weight_decay: NotNegative | None = None  # embeddings and head; None: weight_decay
    muon_scale: Scale = "match_rms_adamw"
    muon_steps: Annotated[int, Field(ge=1, le=20)] = 5

    schedule: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] | None = None  # fraction of the budget; None: none
    warmup_steps: Annotated[int, Field(ge=0)] | None = None  # the same in steps
    decay_fraction: Fraction = 0.2  # how much of the budget wsd's decay takes
    decay_shape: Literal["linear", "1-sqrt"] = "1-sqrt"  # of wsd
    final_fraction: Fraction = 0.0  # of the learning rate, where a decay ends

    clip_norm: Positive | None = 1.0
    clip_value: Positive | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    z_loss: NotNegative = 0.0
    moe_balance: NotNegative = 0.0  # weight of the load-balancing loss of a mixture of experts, usually 0.01
    moe_z: NotNegative = 0.0  # weight of its router's z-loss, usually 0.001

    anchor: NotNegative = 0.0  # weight of the squared distance to where the stage began (anchor.py), usually 0.01 to 1

    batch_tokens: Count = 4096
    context: Count = 256
    micro_batch_rows: Count | None = None  # rows that go through the model at once; None: the whole batch
    recompute: bool = False  # activations a second time in the backward pass: less memory, a third more time
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"

    checkpoint_every: NotNegative = 60.0  # seconds: what a kill may cost at most; 0: every step
    keep_checkpoints: Count = 2
    validate_every: Count = 100  # steps
    guard: GuardConfig = GuardConfig()

    @property
    def batch_rows(self) -> int:
        """Rows of `context` tokens in a batch."""
        return self.batch_tokens // self.context

    @property
    def warmup_fraction(self) -> float:
        """The warmup as a fraction of the budget, however it was given."""
        if not self.warmup_steps:
            return self.warmup or 0.0
        assert self.minutes is None, "checked below"
        steps = self.steps if self.steps is not None else (self.tokens or 0) / self.batch_tokens
        return self.warmup_steps / steps

    @model_validator(mode="after")
    def _check_budget(self) -> "TrainConfig":
        given = [name for name in ("steps", "tokens", "minutes") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"got {' and '.join(given) or 'no budget'}, expected exactly one of steps, tokens and minutes"
            )
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> "TrainConfig":
        if self.warmup is not None and self.warmup_steps is not None:
            raise ValueError("got warmup and warmup_steps, expected one of them")
        if self.warmup_steps and self.minutes is not None:
            raise ValueError(
                "warmup_steps needs a budget in steps or tokens; with minutes give warmup, a fraction of them"
            )
        if self.warmup_fraction >= 1:
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} is the whole budget: lower it or give warmup, a fraction"
            )
        if self.schedule == "inverse_sqrt" and not self.warmup_fraction:
            raise ValueError("schedule inverse_sqrt falls from the end of its warmup: give warmup, for example 0.05")
        if self.schedule == "wsd" and self.warmup_fraction + self.decay_fraction > 1:
            raise ValueError(
                f"warmup ({self.warmup_fraction:g}) and decay_fraction ({self.decay_fraction:g}) exceed the budget"
            )
        return self

    @model_validator(mode="after")
    def _check_batch(self) -> "TrainConfig":
        if self.batch_tokens % self.context:
            raise ValueError(
                f"batch_tokens = {self.batch_tokens} is not a multiple of context = {self.context}: "
                f"take {max(1, round(self.batch_tokens / self.context)) * self.context}"
            )
        return self
