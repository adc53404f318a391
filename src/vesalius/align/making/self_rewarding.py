"""A model that rewards itself: it answers, marks its answers, and learns from the best against the worst (Yuan et al.
2024, arXiv:2401.10020, section 2: one iteration of self-instruction creation, LLM-as-a-judge with additive marks).

The mark is the mean of the marks from 0 to 5, weighted by how likely the model finds each: the paper samples marks and
takes their mean, which is this with less noise. Left out: prompts that the model makes up; the recipe has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vesalius.align.making.journal import Row
from vesalius.align.writer import Answer, Messages, Question, Writer, seed_of
from vesalius.data.prompts import Prompt

MARKS = ("0", "1", "2", "3", "4", "5")

ASKED = """Mark the answer to the question below with points that add up, at most 5:
- 1 point if it has something to do with the question,
- 1 more if it answers a good part of it,
- 1 more if it answers all of it in a useful way,
- 1 more if it is clear, well ordered and written for the person who asks,
- 1 more if an expert could not say it better, with nothing superfluous in it.

Question: {question}

Answer: {answer}

Reply with the number of points only."""


@dataclass(frozen=True, kw_only=True)
class SelfRewarding:
    """Rows of {"prompt", "chosen", "rejected", "kept", "dropped", "samples": all with their marks} from prompts.

    least  by how many points the chosen answer has to be better
    """

    writer: Writer
    model: str
    samples: int = 4
    least: float = 0.1
    temperature: float = 1.0
    seed: int = 0

    def __call__(self, prompts: Sequence[Prompt]) -> list[Row]:
        """A row for each prompt, in order."""
        questions = [
            Question(prompt.messages, seed_of(self.seed, prompt.name, "sample", i))
            for prompt in prompts
            for i in range(self.samples)
        ]
        answers = self.writer.write(questions, temperature=self.temperature)
        asked = [
            asked_to_mark(question.messages, answer.text) for question, answer in zip(questions, answers, strict=True)
        ]
        marks = [mean_mark(shares) for shares in self.writer.choose(asked, MARKS)]
        marked = list(zip(answers, marks, strict=True))
        groups = [marked[start : start + self.samples] for start in range(0, len(marked), self.samples)]
        return [self._row(prompt, group) for prompt, group in zip(prompts, groups, strict=True)]

    def _row(self, prompt: Prompt, marked: list[tuple[Answer, float | None]]) -> Row:
        usable = [(mark, answer.text) for answer, mark in marked if mark is not None and answer.ended and answer.text]
        best = max(usable, default=(0.0, ""), key=lambda one: one[0])
        worst = min(usable, default=(0.0, ""), key=lambda one: one[0])
        dropped = ""
        if len(usable) < 2:
            dropped = "fewer than two answers that ended"
        elif best[1] == worst[1] or best[0] - worst[0] < self.least:
            dropped = "no answer is clearly better"
        return {
            "kept": not dropped,
            "dropped": dropped,
            "prompt": prompt.messages,
            "chosen": best[1],
            "rejected": worst[1],
            "samples": [{"text": answer.text, "ended": answer.ended, "mark": mark} for answer, mark in marked],
            "model": self.model,
            "seed": self.seed,
        }


def asked_to_mark(talk: Messages, answer: str) -> Messages:
    """The request for a mark."""
    question = "\n\n".join(message["content"] for message in talk)
    return [{"role": "user", "content": ASKED.format(question=question, answer=answer)}]


def mean_mark(shares: Sequence[float] | None) -> float | None:
    """The expected mark; None where the answer was too long to be marked.

    >>> mean_mark([0, 0, 0, 0.5, 0.5, 0])
    3.5
    """
    return None if shares is None else sum(mark * share for mark, share in enumerate(shares))
