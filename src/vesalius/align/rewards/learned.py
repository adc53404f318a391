"""What a trained reward model thinks of an answer: a proxy for whatever its pairs or scores were chosen by.

    value = σ(r(x, y))

Under Bradley & Terry that is the probability that the answer beats one of reward 0, which `reward.centring` makes an
average one. Comparisons say rewards only up to a constant, and the advantages of a group are free of scale, so what
matters is kept: the order, and the range from 0 to 1 that every reward has, so that it can be mixed with others.
Left out: rewards as they are, which a policy can push up without end; and scores on a scale far beyond -5 to 5, where σ
is nearly flat: train such a model on scores divided by their deviation.

The answer is read as a text by the reward model's own tokenizer and chat template, so it may be of another family than
the policy. All answers of a rollout are read at once, those of like length together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vesalius.align.rewards.verdict import Verdict
from vesalius.align.rows.items import encode_answers
from vesalius.align.scoring.files import open_scoring_model
from vesalius.align.scoring.model import REWARD, ScoringModel
from vesalius.align.scoring.reward import score
from vesalius.core.errors import UserError
from vesalius.data.task import Task
from vesalius.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class LearnedReward:
    """A reward model, in evaluation mode, and the tokenizer that it was trained with."""

    model: ScoringModel
    tokenizer: Tokenizer

    def __call__(self, task: Task, completion: str) -> Verdict:
        return self.many([task], [completion])[0]

    def many(self, tasks: Sequence[Task], completions: Sequence[str]) -> list[Verdict]:
        """The verdict on each, in order; 0 for an answer that with its prompt is longer than the model reads."""
        read = [self._ids(task, completion) for task, completion in zip(tasks, completions, strict=True)]
        limit = self.model.config.max_position_embeddings
        fitting = [number for number, ids in enumerate(read) if len(ids) <= limit]
        rewards = score(self.model, [read[number] for number in fitting]).tolist() if fitting else []
        found = dict(zip(fitting, rewards, strict=True))
        return [
            _verdict(found[number])
            if number in found
            else Verdict(0.0, f"longer than the {limit} tokens that it reads")
            for number in range(len(read))
        ]

    def _ids(self, task: Task, completion: str) -> list[int]:
        """As in training: to the last token that the assistant says, where the reward is read."""
        answer = [{"role": "assistant", "content": completion}]
        prompt, [(ids, _)] = encode_answers(self.tokenizer, task.messages, [answer], task.name)
        return prompt + ids


def open_reward(directory: Path | str, device: torch.device | str) -> LearnedReward:
    """The reward model of a run or of a Hugging Face directory. UserError where there is none, or it judges steps."""
    model, tokenizer = open_scoring_model(directory)
    if model.labels != REWARD:
        raise UserError(
            f"{directory} judges the steps of an answer: give a model that rewards whole ones, which "
            "`vesalius run reward` makes"
        )
    return LearnedReward(model.to(device), tokenizer)


def _verdict(reward: float) -> Verdict:
    return Verdict(float(torch.tensor(reward).sigmoid()), f"the reward model says {reward:.2f}")
