"""From judged answers to ids with numbers at some of their tokens: pairs, scores and steps become the same here."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vesalius.align.rows.items import encode_answers
from vesalius.align.rows.system_messages import with_their_system
from vesalius.align.scoring.process_reward import encode_steps
from vesalius.core.errors import UserError
from vesalius.data.preference import Pair, ScoredAnswer
from vesalius.data.solution import Solution
from vesalius.tokenizers.tokenizer import Tokenizer

Answer = tuple[list[int], Mapping[int, float]]
"""The ids of an answer, and place in it -> the number that is wanted there."""


@dataclass(frozen=True)
class Item:
    """A prompt's ids and the answers to it, which stay in one row."""

    name: str
    prompt: list[int]
    answers: tuple[Answer, ...]


def pair_items(pairs: Iterable[Pair], tokenizer: Tokenizer) -> Iterator[Item]:
    """The chosen answer with its margin at its last token, the rejected one with 0 at its."""
    for pair in with_their_system(pairs, tokenizer, lambda one: (one.name, one.prompt)):
        prompt, answers = encode_answers(tokenizer, pair.prompt, (pair.chosen, pair.rejected), pair.name)
        numbers = (pair.margin, 0.0)
        both = tuple((ids, {len(ids) - 1: number}) for (ids, _), number in zip(answers, numbers, strict=True))
        yield Item(pair.name, prompt, both)


def score_items(answers: Iterable[ScoredAnswer], tokenizer: Tokenizer) -> Iterator[Item]:
    """Each answer with its score at its last token."""
    for answer in with_their_system(answers, tokenizer, lambda one: (one.name, one.prompt)):
        prompt, [(ids, _)] = encode_answers(tokenizer, answer.prompt, (answer.answer,), answer.name)
        yield Item(answer.name, prompt, ((ids, {len(ids) - 1: answer.score}),))


def step_items(solutions: Iterable[Solution], tokenizer: Tokenizer, separator: str) -> Iterator[Item]:
    """Each solution with 1 or 0 at the end of every step."""
    for solution in with_their_system(solutions, tokenizer, lambda one: (one.name, one.prompt)):
        try:
            encoded = encode_steps(tokenizer, solution.prompt, solution.steps, separator)
        except UserError as error:
            raise UserError(f"{solution.name}: {error}") from error
        numbers = dict(zip(encoded.ends, map(float, solution.labels), strict=True))
        yield Item(solution.name, encoded.prompt, ((encoded.answer, numbers),))
