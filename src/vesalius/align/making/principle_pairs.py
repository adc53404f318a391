"""Pairs that a model prefers by principle: AI feedback (Bai et al. 2022, arXiv:2212.08073, section 4.1).

Two answers to a prompt are sampled, and the feedback model is asked by a principle which one is better. What counts is
how likely it finds "A" and "B", not which it would write. Models like the first of two answers better, whatever it says
(Zheng et al. 2023, arXiv:2306.05685, section 3.3), so it is asked in both orders and the log-odds are averaged: what
speaks for a place and not for an answer cancels out. The paper trains a reward model on the probabilities; here each
pair is one to learn from, with its probability in the row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vesalius.align.making.constitution import Constitution, Principle
from vesalius.align.making.journal import Row
from vesalius.align.making.revisions import drawn
from vesalius.align.writer import Answer, Messages, Question, Writer, seed_of
from vesalius.data.prompts import Prompt

ASKED = """Here is a conversation and two answers to it.

{talk}

Answer A: {first}

Answer B: {second}

{choice} Reply with A or B only."""


@dataclass(frozen=True, kw_only=True)
class PrinciplePairs:
    """Rows of {"prompt", "chosen", "rejected", "kept", "dropped", "principle", "probability"} from prompts.

    writer, judge  who answers, and who chooses; their names for the rows: model, judge_name
    least          how likely the chosen answer has to be, from 0.5
    """

    writer: Writer
    judge: Writer
    model: str
    judge_name: str
    constitution: Constitution
    least: float = 0.55
    temperature: float = 1.0
    seed: int = 0

    def __call__(self, prompts: Sequence[Prompt]) -> list[Row]:
        """A row for each prompt, in order."""
        questions = [
            Question(prompt.messages, seed_of(self.seed, prompt.name, "pair", side))
            for prompt in prompts
            for side in range(2)
        ]
        answers = self.writer.write(questions, temperature=self.temperature)
        pairs = list(zip(answers[::2], answers[1::2], strict=True))
        principles = [drawn(self.constitution, self.seed, prompt.name, "choice") for prompt in prompts]
        asked = [
            asked_both_ways(prompt.messages, principle, first.text, second.text)
            for prompt, principle, (first, second) in zip(prompts, principles, pairs, strict=True)
        ]
        shares = self.judge.choose([one for both in asked for one in both], ("A", "B"))
        orders = zip(shares[::2], shares[1::2], strict=True)
        return [
            self._row(prompt, principle, pair, order)
            for prompt, principle, pair, order in zip(prompts, principles, pairs, orders, strict=True)
        ]

    def _row(
        self,
        prompt: Prompt,
        principle: Principle,
        pair: tuple[Answer, Answer],
        orders: tuple[list[float] | None, list[float] | None],
    ) -> Row:
        straight, turned = orders
        likely = without_place(straight, turned) if straight and turned else 0.5  # that the first one is better
        better, worse = pair if likely >= 0.5 else pair[::-1]
        probability = max(likely, 1 - likely)
        dropped = _reason_against(pair, probability if straight and turned else None, self.least)
        return {
            "kept": not dropped,
            "dropped": dropped,
            "prompt": prompt.messages,
            "chosen": better.text,
            "rejected": worse.text,
            "principle": principle.name,
            "probability": probability,
            "by_order": {"A first": straight, "B first": turned},
            "model": self.model,
            "judge": self.judge_name,
            "seed": self.seed,
        }


def asked_both_ways(talk: Messages, principle: Principle, first: str, second: str) -> tuple[Messages, Messages]:
    """The question which answer is better, with either of them as A."""
    said = "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in talk)

    def ask(one: str, other: str) -> Messages:
        text = ASKED.format(talk=said, first=one, second=other, choice=principle.choice)
        return [{"role": "user", "content": text}]

    return ask(first, second), ask(second, first)


def without_place(straight: list[float], turned: list[float]) -> float:
    """How likely the first answer is better, from the probabilities of A and B when it was A and when it was B.

    >>> round(without_place([0.9, 0.1], [0.9, 0.1]), 3), round(without_place([0.8, 0.2], [0.5, 0.5]), 3)
    (0.5, 0.667)
    """
    odds = math.sqrt(straight[0] / straight[1] * turned[1] / turned[0])
    return odds / (1 + odds)


def _reason_against(pair: tuple[Answer, Answer], probability: float | None, least: float) -> str:
    """Why a pair teaches nothing, "" where it does."""
    if not all(answer.text for answer in pair):
        return "empty answer"
    if not all(answer.ended for answer in pair):
        return "answer cut off"
    if pair[0].text == pair[1].text:
        return "the same answer twice"
    if probability is None:
        return "too long to be compared"
    return "" if probability >= least else "no clear choice"
