"""`tasks:arithmetic`: sums, differences and products of whole numbers of one and two digits.

All problems there are (a, b from 0 to 99, three operations: 30,000) in an order that the seed shuffles; none comes
twice. A product and its mirror image share their split key, and so do sums: 7 + 5 is not held out where 5 + 7 is
trained on.
"""

import random
from collections.abc import Iterator

from vesalius.core.errors import UserError, nearest
from vesalius.data.task import Task

OPERATIONS = {"add": ("+", int.__add__), "subtract": ("-", int.__sub__), "multiply": ("×", int.__mul__)}


def arithmetic_tasks(*, seed: int = 0, count: int = 4000, digits: int = 2, operations: str = "") -> Iterator[Task]:
    """At most `count` problems, of numbers of at most `digits` digits (1 to 4); `operations` such as "add,subtract",
    all where it is "". UserError for another operation.

    >>> task = next(arithmetic_tasks(digits=1, operations="add"))
    >>> task.prompt, task.answer
    ('What is 4 + 9?', '13')
    """
    names = operations.split(",") if operations else list(OPERATIONS)
    for name in names:
        if name not in OPERATIONS:
            raise UserError(f"unknown operation {name!r}, {nearest(name, OPERATIONS)}")
    return _drawn(names, random.Random(seed), count, 10**digits)


def _drawn(names: list[str], generator: random.Random, count: int, limit: int) -> Iterator[Task]:
    total = len(names) * limit * limit
    for number in generator.sample(range(total), min(count, total)):
        which, pair = divmod(number, limit * limit)
        yield _task(names[which], *divmod(pair, limit))


def _task(operation: str, left: int, right: int) -> Task:
    sign, compute = OPERATIONS[operation]
    ordered = (left, right) if operation == "subtract" else sorted((left, right))
    return Task(
        messages=[{"role": "user", "content": f"What is {left} {sign} {right}?"}],
        kind="number",
        name=f"arithmetic: {left} {sign} {right}",
        split_key=f"{operation} {ordered[0]} {ordered[1]}",
        answer=str(compute(left, right)),
    )
