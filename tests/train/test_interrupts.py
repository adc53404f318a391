"""Outside the main thread Python allows no signal handlers: training works there all the same."""

import signal
import threading

from vesalius.train.interrupts import calls_on_interrupt


def test_the_handlers_are_given_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with calls_on_interrupt(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is not before
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_changes_nothing():
    before, inside = signal.getsignal(signal.SIGINT), []

    def work():
        with calls_on_interrupt(lambda: None):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]
