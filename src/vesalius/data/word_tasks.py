"""`tasks:words`: short stories with one number as their answer, in the manner of GSM8K (Cobbe et al. 2021,
arXiv:2110.14168), drawn from templates.

A template is a story with places for names, things and numbers, and the formula of its answer. The numbers are drawn so
that nothing is negative and everything divides. What is held out is held out by its numbers and its template; the
templates themselves are all trained on.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vesalius.data.task import Task

_NAMES = ("Ada", "Ben", "Carla", "Dmitri", "Elif", "Farid", "Grace", "Hugo", "Ines", "Jamal", "Keiko", "Liam")
_THINGS = ("apples", "books", "marbles", "stamps", "pencils", "cookies", "shells", "coins", "cards", "buttons")

Numbers = tuple[int, int, int]


@dataclass(frozen=True)
class _Template:
    """A story; its numbers a, b and c; and what it asks for."""

    story: str
    draw: Callable[[random.Random], Numbers]
    answer: Callable[[int, int, int], int]


def word_tasks(*, seed: int = 0, count: int = 2000) -> Iterator[Task]:
    """`count` problems, none of which comes twice.

    >>> task = next(word_tasks())
    >>> task.kind, task.answer.isdecimal()
    ('number', True)
    """
    generator, seen = random.Random(seed), set[str]()
    while len(seen) < count:
        number = generator.randrange(len(TEMPLATES))
        template = TEMPLATES[number]
        a, b, c = template.draw(generator)
        name, other = generator.sample(_NAMES, 2)
        story = template.story.format(a=a, b=b, c=c, name=name, other=other, things=generator.choice(_THINGS))
        if story not in seen:
            seen.add(story)
            yield Task(
                messages=[{"role": "user", "content": story}],
                kind="number",
                name=f"words: template {number + 1} with {a}, {b}, {c}",
                split_key=f"words {number} {a} {b} {c}",
                answer=str(template.answer(a, b, c)),
            )


def _any(generator: random.Random) -> Numbers:
    return generator.randint(2, 50), generator.randint(2, 50), generator.randint(2, 20)


def _falling(generator: random.Random) -> Numbers:
    """b and c together are at most a."""
    b, c = generator.randint(2, 30), generator.randint(2, 30)
    return b + c + generator.randint(1, 40), b, c


def _small(generator: random.Random) -> Numbers:
    return generator.randint(2, 12), generator.randint(2, 12), generator.randint(2, 20)


def _dividing(generator: random.Random) -> Numbers:
    """b divides a, and c is less than the quotient."""
    b, quotient = generator.randint(2, 9), generator.randint(4, 20)
    return b * quotient, b, generator.randint(1, quotient - 1)


TEMPLATES = (
    _Template(
        "{name} has {a} {things} and gets {b} more from {other}. How many {things} does {name} have now?",
        _any, lambda a, b, _: a + b,
    ),
    _Template(
        "{name} had {a} {things} and gave {b} of them to {other}. How many {things} are left?",
        _falling, lambda a, b, _: a - b,
    ),
    _Template(
        "{name} has {a} boxes with {b} {things} in each. How many {things} is that?", _small, lambda a, b, _: a * b
    ),
    _Template(
        "{name} shares {a} {things} equally among {b} friends. How many {things} does each friend get?",
        _dividing, lambda a, b, _: a // b,
    ),
    _Template(
        "{name} has {a} {things}. {other} has {b} more than {name}. How many {things} do they have together?",
        _any, lambda a, b, _: 2 * a + b,
    ),
    _Template(
        "{name} had {a} {things}, lost {b} and gave {c} to {other}. How many {things} does {name} still have?",
        _falling, lambda a, b, c: a - b - c,
    ),
    _Template(
        "{name} buys {a} packs of {b} {things} and already had {c}. How many {things} does {name} have?",
        _small, lambda a, b, c: a * b + c,
    ),
    _Template(
        "{name} puts {a} {things} into {b} equal piles and takes {c} from the first pile. "
        "How many {things} are left in the first pile?",
        _dividing, lambda a, b, c: a // b - c,
    ),
    _Template(
        "A ticket costs {a} euros. {name} buys {b} tickets and a drink for {c} euros. How many euros is that?",
        _small, lambda a, b, c: a * b + c,
    ),
    _Template(
        "{name} reads {a} pages on each of {b} days, {other} reads {c} pages in all. "
        "How many pages do they read together?",
        _small, lambda a, b, c: a * b + c,
    ),
    _Template(
        "{name} finds {a} {things} on Monday, {b} on Tuesday and {c} on Wednesday. How many {things} is that in all?",
        _any, lambda a, b, c: a + b + c,
    ),
    _Template(
        "There were {a} people on a bus. {b} got off and {c} got on. How many people are on the bus now?",
        _falling, lambda a, b, c: a - b + c,
    ),
)  # fmt: skip
