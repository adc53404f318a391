"""Answers that a program has checked become training data: rejection sampling and STaR.

    best-of-n  n answers to a task; the best is kept where it is good enough (rejection sampling fine-tuning, Yuan et
               al. 2023, arXiv:2308.01825; Touvron et al. 2023, arXiv:2307.09288, section 3.2.3)
    STaR       one answer with its reasons; where it is wrong, the right one is told as a hint and the model asked for
               reasons that lead to it (rationalisation; Zelikman et al. 2022, arXiv:2203.14465, section 3.2)

What is trained on is the task's own prompt with the answer: a hint is not in it. An answer may be right for the wrong
reasons, and with a hint more often; the reward sees only what it checks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vesalius.align.making.journal import Row
from vesalius.align.rewards.compose import judge_many
from vesalius.align.rewards.verdict import Reward, Verdict
from vesalius.align.writer import Answer, Messages, Question, Writer, seed_of
from vesalius.data.task import Task

REASONS = "Think step by step, and say the answer at the end."
HINT = "The answer is {answer}. Explain step by step how to get there, and say the answer at the end."


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Rows of {"messages": prompt and best answer, "kept", "dropped", "samples": all with their rewards} from tasks.

    least  what the best answer has to be worth, from 0 to 1
    """

    writer: Writer
    reward: Reward
    model: str
    samples: int = 4
    least: float = 1.0
    temperature: float = 1.0
    seed: int = 0

    def __call__(self, tasks: Sequence[Task]) -> list[Row]:
        """A row for each task, in order. Among equal answers the shortest is the best: nobody learns to ramble."""
        repeated = [task for task in tasks for _ in range(self.samples)]
        seeds = [seed_of(self.seed, task.name, "sample", i) for task in tasks for i in range(self.samples)]
        questions = [Question(task.messages, seed) for task, seed in zip(repeated, seeds, strict=True)]
        answers = self.writer.write(questions, temperature=self.temperature)
        tried = _judged(self.reward, repeated, answers)
        groups = [tried[start : start + self.samples] for start in range(0, len(tried), self.samples)]
        return [self._row(task, group) for task, group in zip(tasks, groups, strict=True)]

    def _row(self, task: Task, tried: list["_Tried"]) -> Row:
        best = max(tried, key=lambda one: (one.worth, -len(one.answer.text)))
        kept = best.worth >= self.least and bool(best.answer.text)
        return {
            "kept": kept,
            "dropped": "" if kept else "no answer is good enough",
            "messages": [*task.messages, {"role": "assistant", "content": best.answer.text}],
            "samples": [one.told() for one in tried],
            "model": self.model,
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True)
class Star:
    """Rows of {"messages": prompt and reasoned answer, "kept", "dropped", "hinted", "tried"} from tasks.

    rationalise  whether wrong answers are tried again with a hint; only tasks that have an answer to tell
    """

    writer: Writer
    reward: Reward
    model: str
    rationalise: bool = True
    temperature: float = 0.7
    seed: int = 0

    def __call__(self, tasks: Sequence[Task]) -> list[Row]:
        """A row for each task, in order."""
        tried = [[one] for one in self._try(tasks, [REASONS] * len(tasks), "reasons")]
        wrong = [
            place for place, task in enumerate(tasks) if self.rationalise and task.answer and not tried[place][0].right
        ]
        hinted = [tasks[place] for place in wrong]
        hints = [HINT.format(answer=task.answer) for task in hinted]
        for place, again in zip(wrong, self._try(hinted, hints, "hint"), strict=True):
            tried[place].append(again)
        return [self._row(task, tries) for task, tries in zip(tasks, tried, strict=True)]

    def _try(self, tasks: Sequence[Task], requests: Sequence[str], what: str) -> list["_Tried"]:
        questions = [
            Question(asked_for(task.messages, request), seed_of(self.seed, task.name, what))
            for task, request in zip(tasks, requests, strict=True)
        ]
        return _judged(self.reward, tasks, self.writer.write(questions, temperature=self.temperature))

    def _row(self, task: Task, tried: list["_Tried"]) -> Row:
        last = tried[-1]
        return {
            "kept": last.right,
            "dropped": "" if last.right else "wrong, with a hint too" if len(tried) > 1 else "wrong",
            "hinted": len(tried) > 1,
            "messages": [*task.messages, {"role": "assistant", "content": last.answer.text}],
            "tried": [one.told() for one in tried],
            "model": self.model,
            "seed": self.seed,
        }


@dataclass(frozen=True)
class _Tried:
    """An answer with what it is worth; one that was cut off is worth nothing, whatever stands in it."""

    answer: Answer
    verdict: Verdict

    @property
    def worth(self) -> float:
        return float(self.verdict) if self.answer.ended else 0.0

    @property
    def right(self) -> bool:
        return self.worth == 1 and bool(self.answer.text)

    def told(self) -> dict[str, Any]:
        reason = self.verdict.reason if self.answer.ended else f"cut off; {self.verdict.reason}"
        return {**asdict(self.answer), "reward": self.worth, "reason": reason}


def _judged(reward: Reward, tasks: Sequence[Task], answers: Sequence[Answer]) -> list[_Tried]:
    verdicts = judge_many(reward, tasks, [answer.text for answer in answers])
    return [_Tried(answer, verdict) for answer, verdict in zip(answers, verdicts, strict=True)]


def asked_for(messages: Messages, request: str) -> Messages:
    """The prompt with a request at the end of its last turn."""
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{request}"}]
