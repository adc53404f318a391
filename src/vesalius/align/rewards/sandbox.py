"""Code that a model wrote, run with arguments in a process that can compute and do nothing else.

What is guaranteed on Linux (x86-64 and ARM64), whatever the code does, and whether or not it runs as root:

    memory, processor time, time, output     at most `Limits`; beyond them the process is ended
    files, network, processes, threads       none can be opened or begun, nor anything else that is not on the list
                                             of core/seccomp.py; only what was open before can be read or written
    environment, arguments, other memory     none of the parent's: an empty environment, and no file of /proc to open
    the result                               never unpickled, never executed: JSON that is made plain data again

The code is given the arguments of its calls and nothing else. What they should give stays in this process and is
compared here, with values of builtin types. So an answer cannot read its tests, replace `assert`, or return what is
equal to everything; and if it writes to the pipe itself, then what it has written is its answer, right or wrong.

Not defended: a weak test, or one whose result stands in the prompt; code that behaves otherwise when the machine is
slow (time is real time); faults of the kernel and of the interpreter's own memory. Elsewhere nothing is run: UserError.
Left out: namespaces and Landlock, which keep a process from files and networks that it can ask for. This one can't.
"""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from vesalius.align.rewards import confined
from vesalius.core.errors import UserError
from vesalius.core.limited_process import Ended, run_limited
from vesalius.core.seccomp import compute_only
from vesalius.core.threads import usable_processors

__all__ = ["Job", "Limits", "Outcome", "run_jobs"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """cpu_seconds and wall_seconds of a process, bytes of its memory (address space) and of what it may answer."""

    cpu_seconds: int = 2
    wall_seconds: int = 10
    memory: int = 512 << 20
    output: int = 1 << 18


@dataclass(frozen=True)
class Job:
    """Code, the name of a function that it defines, and the arguments of each call."""

    code: str
    function: str
    calls: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """What one call gave, or why it gave nothing ("" where it did)."""

    value: Any = None
    error: str = ""


def run_jobs(jobs: Sequence[Job], limits: Limits | None = None) -> list[list[Outcome]]:
    """The outcomes of each job's calls, in order. As many processes at once as there are processors.

    UserError where this machine's kernel cannot confine a process.
    """
    if not jobs:
        return []
    program = _filter()
    with ThreadPoolExecutor(min(len(jobs), usable_processors())) as pool:  # threads that wait for processes
        return list(pool.map(lambda job: _run(job, limits or Limits(), program), jobs))


def _filter() -> str:
    program = compute_only()
    if program is None:
        raise UserError(
            f"Python answers run only where the kernel can confine them, and {sys.platform} on this processor cannot: "
            "use Linux on x86-64 or ARM64, or rewards that run nothing"
        )
    return program.hex()


def _run(job: Job, limits: Limits, program: str) -> list[Outcome]:
    calls = [[confined.encode(argument) for argument in call] for call in job.calls]
    asked = {"code": job.code, "function": job.function, "calls": calls, "filter": program, **asdict(limits)}
    command = [sys.executable, "-P", "-s", "-S", "-B", confined.__file__]
    ended = run_limited(
        command,
        json.dumps(asked).encode(),
        seconds=limits.wall_seconds,
        most_output=limits.output,
        environment={"PYTHONHASHSEED": "0"},  # sets in the same order each time
    )
    lines = ended.output.split(b"\n")[:-1]  # the last one is empty, or was not finished
    outcomes = [_read(line) for line in lines[: len(calls)]]
    missing = Outcome(error=outcomes[0].error if _failed_before_calls(outcomes) else _reason(ended, limits))
    return outcomes + [missing] * (len(calls) - len(outcomes))


def _failed_before_calls(outcomes: list[Outcome]) -> bool:
    return len(outcomes) == 1 and bool(outcomes[0].error)


def _read(line: bytes) -> Outcome:
    """One line of a process that may have written anything."""
    try:
        match json.loads(line):
            case {"value": value}:
                return Outcome(confined.decode(value))
            case {"error": str(error)}:
                return Outcome(error=error[:200] or "an error")
    except (ValueError, TypeError, RecursionError):  # broken JSON, what cannot be in a set, too deep
        pass
    return Outcome(error="an answer that is no plain data")


def _reason(ended: Ended, limits: Limits) -> str:
    return {
        "finished": "ended before its calls were done",
        "failed": f"stopped: more than {limits.cpu_seconds} s or {limits.memory >> 20} MiB, or a crash",
        "time": f"stopped after {limits.wall_seconds} s",
        "output": f"stopped: more than {limits.output} bytes of results",
    }[ended.how]
