"""Ctrl-C and SIGTERM as a wish: the step is finished and saved, then the run ends. A second one ends it at once."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def calls_on_interrupt(ask_to_stop: Callable[[], None]) -> Iterator[None]:
    """Inside, the first signal calls `ask_to_stop` and gives the signals back to who had them before.

    Python allows handlers in the main thread only; elsewhere nothing is changed and the thread's owner must stop the
    run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def give_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        give_back()
        ask_to_stop()

    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        give_back()
