"""Critique → revision: the supervised stage of Constitutional AI (Bai et al. 2022, arXiv:2212.08073, section 3.1).

    prompt → answer → what a principle finds wrong with it → the answer again → … → (prompt, last answer)

Critique and revision are turns of the same conversation, so the model sees what it corrects. A principle is drawn for
each round. Row by row everything is kept that led to the last answer, so that anybody can see what was trained on
and why. Left out: the examples that the paper puts before each request, which a model without instruction tuning needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vesalius.align.making.constitution import Constitution, Principle
from vesalius.align.making.journal import Row
from vesalius.align.writer import Answer, Messages, Question, Writer, seed_of
from vesalius.data.prompts import Prompt


@dataclass
class _Draft:
    """One prompt on its way."""

    prompt: Prompt
    answer: Answer
    first: str
    rounds: list[Row] = field(default_factory=list)
    dropped: str = ""


@dataclass(frozen=True, kw_only=True)
class Revisions:
    """Rows of {"messages": prompt and last answer, "kept", "dropped", "first_answer", "rounds"} from prompts.

    writer, model   who answers, criticises and revises, and its name for the rows
    rounds          how often an answer is criticised and revised
    """

    writer: Writer
    model: str
    constitution: Constitution
    rounds: int = 1
    temperature: float = 0.7
    seed: int = 0

    def __call__(self, prompts: Sequence[Prompt]) -> list[Row]:
        """A row for each prompt, in order."""
        asked = [Question(prompt.messages, seed_of(self.seed, prompt.name, "answer")) for prompt in prompts]
        answers = self.writer.write(asked, temperature=self.temperature)
        drafts = [_Draft(prompt, answer, answer.text) for prompt, answer in zip(prompts, answers, strict=True)]
        for draft in drafts:
            _check(draft, "answer", draft.answer)
        for number in range(self.rounds):
            self._revise([draft for draft in drafts if not draft.dropped], number)
        return [self._row(draft) for draft in drafts]

    def _revise(self, drafts: list[_Draft], number: int) -> None:
        """One round; who has no critique or no revision is dropped with the reason."""
        principles = [drawn(self.constitution, self.seed, draft.prompt.name, "critique", number) for draft in drafts]
        talks = [
            [*draft.prompt.messages, _said(draft.answer.text), _asked(principle.critique)]
            for draft, principle in zip(drafts, principles, strict=True)
        ]
        critiques = self._write(drafts, talks, f"critique {number}")
        talks = [
            [*talk, _said(critique.text or "None."), _asked(principle.revision)]
            for talk, critique, principle in zip(talks, critiques, principles, strict=True)
        ]
        revisions = self._write(drafts, talks, f"revision {number}")
        for draft, principle, critique, revision in zip(drafts, principles, critiques, revisions, strict=True):
            draft.rounds.append({"principle": principle.name, "critique": critique.text, "revision": revision.text})
            _check(draft, "critique", critique)
            _check(draft, "revision", revision)
            draft.answer = revision

    def _write(self, drafts: list[_Draft], talks: list[Messages], what: str) -> list[Answer]:
        seeds = [seed_of(self.seed, draft.prompt.name, what) for draft in drafts]
        questions = [Question(talk, seed) for talk, seed in zip(talks, seeds, strict=True)]
        return self.writer.write(questions, temperature=self.temperature)

    def _row(self, draft: _Draft) -> Row:
        return {
            "kept": not draft.dropped,
            "dropped": draft.dropped,
            "messages": [*draft.prompt.messages, _said(draft.answer.text)],
            "first_answer": draft.first,
            "rounds": draft.rounds,
            "model": self.model,
            "seed": self.seed,
        }


def drawn(constitution: Constitution, *parts: str | int) -> Principle:
    """The principle that the seed of these parts draws."""
    return constitution.principles[seed_of(*parts) % len(constitution.principles)]


def _check(draft: _Draft, what: str, answer: Answer) -> None:
    if not draft.dropped and not answer.text:
        draft.dropped = f"empty {what}"
    if not draft.dropped and not answer.ended:
        draft.dropped = f"{what} cut off"


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _asked(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
