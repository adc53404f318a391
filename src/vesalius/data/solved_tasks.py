"""Tasks with their answers as conversations: a little of it, and a model is right now and then, which is all that
reinforcement can begin from. The split key is the task's, so what is held out from one is held out from the other.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from vesalius.core.errors import UserError
from vesalius.data.conversation import Conversation
from vesalius.data.task import Task
from vesalius.data.tasks import read_tasks


def solved_sources(specs: Sequence[str]) -> dict[str, Callable[[], Iterator[Conversation]]]:
    """What makes the conversations of each spec that names tasks, such as `tasks:arithmetic?digits=1`. UserError at
    once for an unknown name or option."""
    return {spec: partial(_solved, read_tasks([spec])) for spec in specs if spec.startswith("tasks:")}


def _solved(tasks: Iterator[Task]) -> Iterator[Conversation]:
    """UserError for a task that has no answer to be written down."""
    for task in tasks:
        if not task.answer:
            raise UserError(f"{task.name} is checked by {task.kind} and has no written answer: give conversations")
        answer = {"role": "assistant", "content": task.answer}
        yield Conversation([*task.messages, answer], task.name, task.split_key)
