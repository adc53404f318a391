"""[dpo] and [kto]: models that learn which answers are preferred, from pairs or from single rated answers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vesalius.align.preference.losses import LossNumbers
from vesalius.align.preference.objective import Preference
from vesalius.core.errors import UserError
from vesalius.train.config import Count, NotNegative, Positive, TrainConfig


class PreferenceSection(TrainConfig):
    """What both have in common.

    beta              how much a nat of difference from the reference counts
    measured          held-out pairs or answers that the model is measured on, at most
    sampled           held-out prompts that it answers, to tell how far it is from the reference; 0: it is not told
    sampled_tokens    of such an answer, at most
    """

    beta: Positive = 0.1
    measured: Count = 300
    sampled: Annotated[int, Field(ge=0)] = 64
    sampled_tokens: Count = 64

    learning_rate: Positive = 1e-6
    weight_decay: NotNegative = 0.0
    compile: Literal["auto", "on", "off"] = "off"  # every batch has another number of answers

    @model_validator(mode="after")
    def _check_losses(self) -> "PreferenceSection":
        given = [name for name in ("z_loss", "moe_balance", "moe_z") if getattr(self, name)]
        if given:
            raise ValueError(f"{' and '.join(given)}: that is of next-token training, remove it here")
        return self


class DpoSection(PreferenceSection):
    """Learning from data.pairs.

    loss             a name in the table of align/preference/losses
    label_smoothing  ε of the losses that have it: how often a label is wrong
    gamma, tau       SimPO's margin, DiscoPOP's slope
    sft_weight       of the chosen answers' likelihood; None: the loss's own
    reference        where its log-probabilities come from: the model (without its adapter, or a copy), or a file that
                     is written first, which pays where pairs are seen more than once, and leaves no reference to
                     measure the KL to
    """

    loss: str = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    gamma: NotNegative = 0.5
    tau: Positive = 0.05
    sft_weight: NotNegative | None = None
    reference: Literal["model", "file"] = "model"

    @property
    def numbers(self) -> LossNumbers:
        return LossNumbers(beta=self.beta, label_smoothing=self.label_smoothing, gamma=self.gamma, tau=self.tau)

    @model_validator(mode="after")
    def _check_loss(self) -> "DpoSection":
        try:
            Preference(loss=self.loss, numbers=self.numbers)
        except UserError as error:
            raise ValueError(str(error)) from error
        return self


class KtoSection(PreferenceSection):
    """Learning from data.ratings, which may be pairs: each is a good answer and a bad one.

    loss                                   kto, or apo_zero_unpaired, which needs no estimate of the KL
    desirable_weight, undesirable_weight   of the two kinds of answers
    """

    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    desirable_weight: Positive = 1.0
    undesirable_weight: Positive = 1.0

    @model_validator(mode="after")
    def _check_smoothing(self) -> "KtoSection":
        if self.label_smoothing:
            raise ValueError("label_smoothing is not in the losses of KTO: remove it")
        return self
