"""[distill]: a student learns from a teacher, over data.conversations."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vesalius.align.distill.objective import DistillNumbers
from vesalius.core.errors import UserError
from vesalius.train.config import Count, Fraction, NotNegative, Positive, TrainConfig


class DistillSection(TrainConfig):
    """The student is the recipe's model.

    teacher          by any name that a model has; it must share the student's tokenizer
    keep_layers      of the model's layers that the student begins with, evenly spread; 0: all
    divergence       forward_kl, reverse_kl or jsd (align/distill/divergences)
    beta             of the JSD
    temperature      what both models' logits are divided by
    sft_weight       of the cross-entropy with the data's own tokens
    top_k            so many of the teacher's likeliest tokens are written to the disk first, and it is not asked again;
                     0: it stands beside the student
    stored           a directory where another run has written them (RUN/data/teacher), in place of a teacher
    on_policy        share of batches that the student writes itself
    prompts          that it answers for such a batch, with at most `max_tokens` each at `sampling_temperature`
    measured_tokens  held-out tokens on which student and teacher are compared
    hidden_weight    of the distance between hidden states, layer by layer; hidden_distance: mse or cosine
    """

    teacher: str | None = None
    keep_layers: Annotated[int, Field(ge=0)] = 0
    divergence: str = "forward_kl"
    beta: float = 0.5
    temperature: Positive = 1.0
    sft_weight: NotNegative = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    stored: str | None = None
    on_policy: Fraction = 0.0
    prompts: Count = 32
    max_tokens: Count = 64
    sampling_temperature: NotNegative = 1.0
    measured_tokens: Count = 4096
    hidden_weight: NotNegative = 0.0
    hidden_distance: Literal["mse", "cosine"] = "cosine"

    learning_rate: Positive = 5e-5
    weight_decay: NotNegative = 0.0
    compile: Literal["auto", "on", "off"] = "off"  # every batch has another number of targets

    @property
    def numbers(self) -> DistillNumbers:
        return DistillNumbers(
            divergence=self.divergence, beta=self.beta, temperature=self.temperature, sft_weight=self.sft_weight
        )

    @model_validator(mode="after")
    def _check_teacher(self) -> "DistillSection":
        if (self.teacher is None) == (self.stored is None):
            raise ValueError("give teacher, a model to learn from, or stored, what one has said; and not both")
        if self.stored is not None and not self.top_k:
            raise ValueError("stored needs top_k: how many tokens a position were written")
        if self.top_k and (self.on_policy or self.hidden_weight):
            raise ValueError("on_policy and hidden_weight need the teacher beside the student: remove top_k")
        if self.on_policy and self.sft_weight:
            raise ValueError("sft_weight would teach the student its own answers: remove it or on_policy")
        return self

    @model_validator(mode="after")
    def _check_numbers(self) -> "DistillSection":
        given = [name for name in ("label_smoothing", "z_loss", "moe_balance", "moe_z") if getattr(self, name)]
        if given:
            raise ValueError(f"{' and '.join(given)}: that is of next-token training, remove it here")
        try:
            self.numbers  # noqa: B018  checked where it is made
        except UserError as error:
            raise ValueError(str(error)) from error
        return self
