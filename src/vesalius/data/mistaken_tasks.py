"""Tasks as preference pairs: the right number, and one that is near it, as a model gets it that half knows how.

What a reward model learns from them it does not learn for other mistakes, so a policy that is trained against it finds
these: an imperfect proxy, whose gold reward anybody can check. The split key is the task's.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from vesalius.core.errors import UserError
from vesalius.data.preference import Pair
from vesalius.data.task import Task
from vesalius.data.tasks import read_tasks

_AMISS = (1, -1, 1, -1, 2, -2, 3, -3, 10, -10)


def mistaken_sources(specs: Sequence[str]) -> dict[str, Callable[[], Iterator[Pair]]]:
    """What makes the pairs of each spec that names tasks, such as `tasks:arithmetic?digits=1`. UserError at once for an
    unknown name or option."""
    return {spec: partial(_mistaken, read_tasks([spec])) for spec in specs if spec.startswith("tasks:")}


def _mistaken(tasks: Iterator[Task]) -> Iterator[Pair]:
    """UserError for a task whose answer is no whole number."""
    for task in tasks:
        if task.kind != "number" or not task.answer.removeprefix("-").isdecimal():
            raise UserError(f"{task.name} is checked by {task.kind} and has no number to miss: give pairs")
        chance = hashlib.blake2b(task.name.encode(), digest_size=8).digest()
        near = int(task.answer) + _AMISS[int.from_bytes(chance, "big") % len(_AMISS)]
        chosen, rejected = ([{"role": "assistant", "content": str(answer)}] for answer in (task.answer, near))
        yield Pair(task.messages, chosen, rejected, task.name, task.split_key)
