"""[reward] and [prm]: models that score answers, as a whole or step by step."""

from typing import Literal

from vesalius.train.config import NotNegative, Positive, TrainConfig


class RewardSection(TrainConfig):
    """Training of a reward model on the model's own decoder.

    learn     what the data are: pairs (data.pairs) or scores (data.scores)
    centring  weight of the term that holds the level of rewards at 0, of pairs; usually 0.01
    """

    learn: Literal["pairs", "scores"] = "pairs"
    centring: NotNegative = 0.0

    learning_rate: Positive = 1e-5
    weight_decay: NotNegative = 0.0


class PrmSection(TrainConfig):
    """Training of a process reward model on the model's own decoder, from data.steps.

    separator  what stands behind every step, whose last token is where the step is judged
    """

    separator: str = "\n"

    learning_rate: Positive = 1e-5
    weight_decay: NotNegative = 0.0
