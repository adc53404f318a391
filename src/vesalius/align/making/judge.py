"""A language model as judge: which of two answers is better, or how good one is. Zheng et al. 2023, arXiv:2306.05685.

The verdict is written by the engine under the constraint that it is one of a few texts, so it always parses. Its
probability is that of the text's tokens among those of all the texts that were allowed.

Judges favour a place: the first answer, or the last. So a comparison is made in both orders and their probabilities are
averaged, which cancels it (section 4.1 there); how often the two orders disagree is told. A rating is the mean of
the marks under their probabilities, which is finer than the likeliest mark (Liu et al. 2023, arXiv:2303.16634, eq. 1).

Left out: reasoning before the verdict, which small models do not gain from.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vesalius.align.making.judge_prompts import PAIRWISE, POINTWISE, JudgePrompt, transcript
from vesalius.core.errors import UserError
from vesalius.data.preference import Messages, Pair
from vesalius.infer.constrain import ConstraintSpec, compile_constraint
from vesalius.infer.language_model import LanguageModel
from vesalius.infer.params import SamplingParams

AT_ONCE = 32
"""Questions that the engine is given together; the two orders of a comparison are two."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was answered to one question, and the probability of each text that was allowed, in their order."""

    text: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two answers to one prompt, judged in both orders.

    probability  that the first answer is better, the mean of both orders
    verdicts     the letters that were written, first in the given order, then with the answers exchanged
    provenance   the judge's name and what it was asked
    """

    name: str
    probability: float
    verdicts: tuple[str, str]
    provenance: dict[str, Any]

    @property
    def first_is_better(self) -> bool:
        return self.probability > 0.5

    @property
    def consistent(self) -> bool:
        """Whether both orders prefer the same answer: the letters then differ."""
        return self.verdicts[0] != self.verdicts[1]


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One answer's mark: the mean under the probabilities of the marks, which count from 1."""

    name: str
    mark: float
    verdict: str
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a judge agrees with given labels.

    accuracy    share of pairs whose chosen answer it prefers
    consistent  share of pairs that it judges alike in both orders
    first       share of verdicts for the answer that stands first, a half without bias: each stands there once
    kappa       Cohen's: the agreement beyond chance, which is a half where both orders are asked
    """

    pairs: int
    accuracy: float
    consistent: float
    first: float

    @property
    def kappa(self) -> float:
        return 2 * self.accuracy - 1


class Judge:
    """A model that judges; `name` is what stands in the provenance."""

    def __init__(self, lm: LanguageModel, name: str) -> None:
        self.lm, self.name = lm, name

    def compare(self, pairs: Sequence[Pair], prompt: JudgePrompt = PAIRWISE) -> list[Comparison]:
        """The chosen and the rejected answer of each pair as first and second. UserError for a pair that is longer than
        the judge's context, by its name.
        """
        if len(prompt.verdicts) != 2:
            raise ValueError(f"a comparison has two verdicts, got {len(prompt.verdicts)}: give another prompt")
        asked: list[tuple[str, Messages]] = []
        for pair in pairs:
            texts = transcript(pair.chosen), transcript(pair.rejected)
            asked += [
                (pair.name, prompt.messages(pair.prompt, first=first, second=second))
                for first, second in (texts, texts[::-1])
            ]
        verdicts = self._verdicts(asked, prompt)
        return [
            Comparison(
                name=pair.name,
                probability=(straight.probabilities[0] + exchanged.probabilities[1]) / 2,
                verdicts=(straight.text, exchanged.text),
                provenance=self._provenance(prompt),
            )
            for pair, straight, exchanged in zip(pairs, verdicts[::2], verdicts[1::2], strict=True)
        ]

    def rate(self, answers: Sequence[tuple[str, Messages, str]], prompt: JudgePrompt = POINTWISE) -> list[Rating]:
        """A mark for each (name, prompt, answer). Errors as in `compare`."""
        asked = [(name, prompt.messages(before, answer=answer)) for name, before, answer in answers]
        return [
            Rating(
                name=name,
                mark=sum(mark * p for mark, p in enumerate(verdict.probabilities, start=1)),
                verdict=verdict.text,
                provenance=self._provenance(prompt),
            )
            for (name, _, _), verdict in zip(answers, self._verdicts(asked, prompt), strict=True)
        ]

    def _provenance(self, prompt: JudgePrompt) -> dict[str, Any]:
        return {"judge": self.name, "prompt": prompt.provenance}

    def _verdicts(self, asked: Sequence[tuple[str, Messages]], prompt: JudgePrompt) -> list[Verdict]:
        found: list[Verdict] = []
        for start in range(0, len(asked), AT_ONCE):
            found += self._verdicts_together(asked[start : start + AT_ONCE], prompt.verdicts)
        return found

    def _verdicts_together(self, asked: Sequence[tuple[str, Messages]], verdicts: Sequence[str]) -> list[Verdict]:
        """Writes the verdicts first: what was read for them is then in the cache for the probabilities."""
        engine, tokenizer = self.lm.engine, self.lm.tokenizer
        spelled = [tokenizer.encode(text, after="text") for text in verdicts]
        params = SamplingParams(max_tokens=max(map(len, spelled)) + 8)  # letters may take more tokens than words
        constraint = compile_constraint(tokenizer, ConstraintSpec(choices=tuple(verdicts)))
        prompts = [self._ids(name, messages) for name, messages in asked]
        written = [engine.add(ids, params, constraint=constraint.fork())[0] for ids in prompts]
        texts = [tokenizer.decode(engine.run(sequence).ids, skip_special=True) for sequence in written]
        scored = [[engine.score(ids + spelling) for spelling in spelled] for ids in prompts]
        return [
            Verdict(
                text=text,
                probabilities=_normalised(
                    [sum(engine.run(s).logprobs[-len(ids) :]) for s, ids in zip(row, spelled, strict=True)]
                ),
            )
            for text, row in zip(texts, scored, strict=True)
        ]

    def _ids(self, name: str, messages: Messages) -> list[int]:
        ids = self.lm.prompt_ids(messages)
        if len(ids) + 8 >= self.lm.engine.context:
            raise UserError(
                f"{name}: judging it takes {len(ids)} tokens, and the judge reads {self.lm.engine.context} at most: "
                "shorten the answers or take another judge"
            )
        return ids


def agreement(comparisons: Sequence[Comparison]) -> Agreement:
    """Of comparisons whose first answer is the chosen one, as `Judge.compare` makes them. UserError for none."""
    if not comparisons:
        raise UserError("there are no comparisons, so nothing to agree with: give pairs")
    n = len(comparisons)
    first_letter = comparisons[0].provenance["prompt"]["verdicts"][0]
    letters = [letter for each in comparisons for letter in each.verdicts]
    return Agreement(
        pairs=n,
        accuracy=sum(each.first_is_better for each in comparisons) / n,
        consistent=sum(each.consistent for each in comparisons) / n,
        first=letters.count(first_letter) / len(letters),
    )


def _normalised(logprobs: Sequence[float]) -> tuple[float, ...]:
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    return tuple(weight / sum(weights) for weight in weights)
