"""A process that is asked once, answers once, and is ended where it takes too long or says too much.

It reads all of its standard input before it writes, and it starts no other process: one that outlived it could hold the
pipe open. What else it may not do it forbids itself, before it does anything (grammar_trial.py, align/rewards).
"""

import contextlib
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Ended:
    """output  what the process wrote, as much as it may
    how     finished: by itself without an error; failed: with one, or killed; or what made it be ended: time, output
    """

    output: bytes
    how: Literal["finished", "failed", "time", "output"]


def run_limited(
    command: Sequence[str],
    asked: bytes,
    *,
    seconds: float,
    most_output: int,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Gives `asked` to the process and reads what it answers. It has `seconds` and may write `most_output` bytes.

    Its errors go nowhere: they may be as long as it likes.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert process.stdin is not None, "asked for above"
    assert process.stdout is not None, "asked for above"
    too_late = threading.Event()

    def end() -> None:
        too_late.set()
        process.kill()

    alarm = threading.Timer(seconds, end)
    alarm.start()
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin:  # one that ends early does not listen
            process.stdin.write(asked)
        output = process.stdout.read(most_output + 1)
        if len(output) > most_output:
            return Ended(output=output[:most_output], how="output")
        code = process.wait()
        return Ended(output=output, how="time" if too_late.is_set() else "failed" if code else "finished")
    finally:
        alarm.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
