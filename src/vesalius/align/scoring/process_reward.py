"""Process reward models: the probability that a step of an answer is right, at the end of every step.

    L = -log p(label_i | x, step_1 … step_i),    mean over the steps

Lightman et al. 2023, arXiv:2305.20050, section 2.6; labels from outcomes: Uesato et al. 2022, arXiv:2211.14275. The
probability is a softmax over two logits, as in TRL's PRMTrainer, whose model is a ForTokenClassification.

An answer is its steps, each followed by the separator, at whose last token the step is judged. A solution is as good as
its steps together: their product, the probability that all are right (section 2.6 there), or the worst of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vesalius.align.scoring.batch import ScoredBatch
from vesalius.align.scoring.model import STEPS, ScoringModel
from vesalius.core.errors import UserError
from vesalius.tokenizers.chat import encode_chat
from vesalius.tokenizers.tokenizer import Tokenizer

Aggregation = Literal["product", "minimum"]


@dataclass(frozen=True)
class StepLabels:
    """The loss of labelled steps. Metric: accuracy, the share of steps on whose side of 1/2 the model is."""

    def __call__(self, model: nn.Module, batch: ScoredBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(model, ScoringModel), "a head is needed"
        logits = model.at(batch.tokens, batch.positions, batch.scored)  # (N, 2)
        labels = batch.wanted.long()
        return F.cross_entropy(logits, labels), {"accuracy": (logits.argmax(-1) == labels).float().mean()}


@dataclass(frozen=True)
class EncodedSteps:
    """A prompt's ids, the answer's ids behind it, and where in the answer each step ends."""

    prompt: list[int]
    answer: list[int]
    ends: list[int]


def encode_steps(
    tokenizer: Tokenizer, prompt: Sequence[dict[str, str]], steps: Sequence[str], separator: str
) -> EncodedSteps:
    """Ids as the model is trained on: each step by itself, and the separator by itself, so that a step's end is always
    the same token. UserError for a tokenizer without a chat template, or a separator that is no token.
    """
    before = encode_chat(tokenizer, prompt, add_generation_prompt=True).ids
    between = tokenizer.encode(separator, after="text")
    if not between:
        raise UserError(f"the separator {separator!r} is no token, so there is no place to judge a step: give a text")
    answer, ends = list[int](), list[int]()
    for step in steps:
        answer += tokenizer.encode(step, after="text") + between
        ends.append(len(answer) - 1)
    return EncodedSteps(before, answer, ends)


@torch.no_grad()
def score_steps(model: ScoringModel, solution: EncodedSteps) -> Tensor:
    """(S,) the probability that each step is right. ValueError for a model of other than two labels."""
    if model.labels != STEPS:
        raise ValueError(f"steps need a head of two labels, got {model.labels}: give a process reward model")
    tokens = torch.tensor([solution.prompt + solution.answer], device=model.score.weight.device)
    ends = len(solution.prompt) + torch.tensor(solution.ends, device=tokens.device)
    return model(tokens)[0, ends].softmax(-1)[:, 1]


def aggregate(steps: Tensor, how: Aggregation = "product") -> Tensor:
    """Probabilities of steps (…, S) -> the score of each solution (…).

    >>> aggregate(torch.tensor([0.5, 0.5])).item(), aggregate(torch.tensor([0.5, 0.25]), "minimum").item()
    (0.25, 0.25)
    """
    return steps.prod(-1) if how == "product" else steps.amin(-1)
