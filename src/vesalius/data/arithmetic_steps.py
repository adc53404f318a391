"""Sums worked out step by step, some with a mistake: labelled steps without a person and without the network.

    What is 38 + 7 + 5?     38 + 7 = 45     right
                            45 + 5 = 40     wrong: the carry was forgotten

A solution ends at its first mistake, as the labels of Lightman et al. 2023 (arXiv:2305.20050, section 2.6) do: what a
step is worth after one is a matter of taste. So a wrong step is always the last, which tells a causal model nothing.
Mistakes are those that people make: a carry forgotten, off by a little, another number taken than the one that was
asked for. One that gives the right result by chance is none.

A right and a wrong solution of one sum have the same question, and whole questions are held out, so what is measured on
the held-out ones is not what was seen.
"""

import hashlib
import random
from collections.abc import Iterator

from vesalius.data.solution import Solution

QUESTIONS = 4000
WRONG = 0.5
"""Probability that a step which may go wrong does, in a solution that is to have a mistake."""


def arithmetic_solutions(questions: int = QUESTIONS, seed: int = 0) -> Iterator[Solution]:
    """Two solutions of each of so many sums of three or four numbers: a right one, and one with a mistake."""
    draw = random.Random(seed)
    for number in range(questions):
        terms = [draw.randint(1, 60), *(draw.randint(1, 9) for _ in range(draw.randint(2, 3)))]
        question = f"What is {' + '.join(map(str, terms))}?"
        key = hashlib.blake2b(question.encode(), digest_size=16).hexdigest()
        prompt = [{"role": "user", "content": question}]
        for mistaken in (False, True):
            steps = _work_out(terms, draw if mistaken else None)
            labels = tuple(not (mistaken and step == steps[-1]) for step in steps)
            name = f"steps:arithmetic, {'wrong' if mistaken else 'right'} solution of sum {number}"
            yield Solution(prompt, steps, labels, name, key)


def _work_out(terms: list[int], draw: random.Random | None) -> tuple[str, ...]:
    """The steps of a right solution; with `draw`, those up to a mistake, at the latest in the last step."""
    total, steps = terms[0], list[str]()
    for place, term in enumerate(terms[1:], start=2):
        if draw is not None and (place == len(terms) or draw.random() < WRONG):
            return (*steps, _mistake(total, term, draw))
        steps.append(f"{total} + {term} = {total + term}")
        total += term
    return tuple(steps)


def _mistake(total: int, term: int, draw: random.Random) -> str:
    """A step of the same form whose result, or whose second number, is wrong."""
    if draw.random() < 0.25:
        other = draw.choice([number for number in range(1, 10) if number != term])
        return f"{total} + {other} = {total + other}"
    carries = (total % 10 + term) >= 10
    off = -10 if carries and draw.random() < 0.5 else draw.choice([-2, -1, 1, 2, 10])
    return f"{total} + {term} = {total + term + off}"
