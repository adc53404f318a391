"""`tasks:python`: small functions to write, each a chain of three steps over a list of whole numbers, with its tests.

Which to keep, what to make of each, how to sum it up: every combination is a function that can be said in a sentence,
and what it gives is computed here by the same three steps. Two examples stand in the prompt; the tests have other
lists, so that repeating the examples solves nothing.
"""

import random
from collections.abc import Callable, Iterator
from itertools import product

from vesalius.data.task import Case, Task

CASES, EXAMPLES = 8, 2

_KEEP: dict[str, Callable[[int], bool]] = {
    "takes all numbers": lambda _: True,
    "keeps the even numbers": lambda x: x % 2 == 0,
    "keeps the odd numbers": lambda x: x % 2 == 1,
    "keeps the positive numbers": lambda x: x > 0,
    "keeps the negative numbers": lambda x: x < 0,
    "keeps the multiples of 3": lambda x: x % 3 == 0,
    "keeps the numbers greater than 10": lambda x: x > 10,
}
_CHANGE: dict[str, Callable[[int], int]] = {
    "leaves each as it is": lambda x: x,
    "doubles each": lambda x: 2 * x,
    "squares each": lambda x: x * x,
    "adds 5 to each": lambda x: x + 5,
    "subtracts 1 from each": lambda x: x - 1,
    "takes the absolute value of each": abs,
    "negates each": lambda x: -x,
}
_FINISH: dict[str, Callable[[list[int]], object]] = {
    "returns their sum": sum,
    "returns how many there are": len,
    "returns them as a list in the same order": list,
    "returns them as a list in reverse order": lambda xs: xs[::-1],
    "returns them as a sorted list": sorted,
    "returns the largest, or None where there are none": lambda xs: max(xs, default=None),
    "returns the smallest, or None where there are none": lambda xs: min(xs, default=None),
    "returns a list of the different ones, sorted": lambda xs: sorted(set(xs)),
}


def python_tasks(*, seed: int = 0, count: int = 392) -> Iterator[Task]:
    """At most `count` functions; there are 392.

    >>> task = next(python_tasks())
    >>> task.kind, task.function, len(task.cases)
    ('python', 'solve', 8)
    """
    generator = random.Random(seed)
    chains = list(product(_KEEP, _CHANGE, _FINISH))
    for keep, change, finish in generator.sample(chains, min(count, len(chains))):
        yield _task(keep, change, finish, generator)


def _task(keep: str, change: str, finish: str, generator: random.Random) -> Task:
    cases = [_case(keep, change, finish, numbers) for numbers in _lists(generator)]
    shown, hidden = cases[1 : 1 + EXAMPLES], (cases[0], *cases[1 + EXAMPLES :])
    examples = "\n".join(f"solve({case.arguments[0]}) == {case.expected}" for case in shown)
    deed = f"{keep}, {change} and {finish}"
    prompt = f"Write a Python function `solve(numbers)` that {deed}.\n\n{examples}"
    return Task(
        messages=[{"role": "user", "content": prompt}],
        kind="python",
        name=f"python: {deed}",
        split_key=f"python {deed}",
        function="solve",
        cases=hidden,
    )


def _lists(generator: random.Random) -> list[list[int]]:
    """The empty list first, and different others."""
    lists: list[list[int]] = [[]]
    while len(lists) < CASES + EXAMPLES:
        numbers = [generator.randint(-20, 40) for _ in range(generator.randint(3, 9))]
        if numbers not in lists:
            lists.append(numbers)
    return lists


def _case(keep: str, change: str, finish: str, numbers: list[int]) -> Case:
    changed = [_CHANGE[change](x) for x in numbers if _KEEP[keep](x)]
    return Case((numbers,), _FINISH[finish](changed))
