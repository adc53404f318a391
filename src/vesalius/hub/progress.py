"""How far a download is, on standard error: a bar on a terminal, one line elsewhere.

Standard output stays what a program may read.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

OnBytes = Callable[[int], None]
"""Takes how many bytes there are by now."""


@contextlib.contextmanager
def download_bar(what: str, total: int) -> Iterator[OnBytes]:
    """Shows the download of `total` bytes while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"fetching {what} ({total / 1e6:.0f} MB)", file=sys.stderr, flush=True)
        yield _ignore
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(f"fetching {what}", total=total)
        yield lambda done: progress.update(task, completed=min(done, total))


def _ignore(done: int) -> None:
    """Where nobody watches."""
