"""[reward] and [prm]: models that score answers, as a whole or step by step."""

from typing import Annotated, Literal

from pydantic import Field

from vesalius.train.config import Count, NotNegative, Positive, TrainConfig


class RewardSection(TrainConfig):
    """Training of a reward model on the model's own decoder.

    learn     what the data are: pairs (data.pairs) or scores (data.scores)
    centring  weight of the term that holds the level of rewards at 0, of pairs; usually 0.01

    Where there are data.tasks too, it is measured what its choice is worth (pipeline/best_of): of `best_of` answers of
    at most `answer_tokens` to each of `answered_tasks` held-out tasks, drawn by the model that the run starts from.
    """

    learn: Literal["pairs", "scores"] = "pairs"
    centring: NotNegative = 0.0
    best_of: Annotated[int, Field(ge=2)] = 32
    answered_tasks: Count = 100
    answer_tokens: Count = 64

    learning_rate: Positive = 1e-5
    weight_decay: NotNegative = 0.0


class PrmSection(TrainConfig):
    """Training of a process reward model on the model's own decoder, from data.steps.

    separator  what stands behind every step, whose last token is where the step is judged
    """

    separator: str = "\n"

    learning_rate: Positive = 1e-5
    weight_decay: NotNegative = 0.0
