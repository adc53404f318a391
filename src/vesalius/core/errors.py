"""Errors that a person reads: what was got, what was expected, how to fix it, in one line.

The command line prints them without a traceback and exits with their code.
"""

import difflib
from collections.abc import Iterable


class VesaliusError(Exception):
    """The work failed for a reason that is known and worth one clear line."""

    exit_code = 1


class UserError(VesaliusError, ValueError):
    """The input is wrong: the message says what was got, what was expected and how to fix it."""

    exit_code = 2


class Interrupted(VesaliusError):  # noqa: N818  nothing went wrong
    """A person stopped the work; everything up to here is kept."""

    exit_code = 130  # what shells give for Ctrl-C


def nearest(name: str, options: Iterable[str]) -> str:
    """A hint that ends an error about an unknown name: the closest option, or else all of them.

    >>> nearest("lerning_rate", ["learning_rate", "steps"])
    "did you mean 'learning_rate'?"
    """
    known = sorted(options)
    if close := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if known else "nothing is known here"
