"""A display that shows nothing."""

import contextlib
from collections.abc import Callable, Iterator

from vesalius.train.training import Callback


class Silent:
    """For runs that a test looks at from outside."""

    def say(self, line: str) -> None:
        pass

    @contextlib.contextmanager
    def stage(self, description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        yield lambda done: None

    def training(self, stage: str) -> Callback:
        return Callback()
