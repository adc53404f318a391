"""One question, one answer; ended where it takes too long or says too much."""

import sys
import time

import pytest

from vesalius.core.limited_process import run_limited


def python(code: str, asked: bytes = b"", *, seconds: float = 60, most: int = 1000):
    return run_limited([sys.executable, "-S", "-c", code], asked, seconds=seconds, most_output=most)


def test_it_reads_what_it_is_asked_and_its_answer_is_whole():
    ended = python("import sys; sys.stdout.write(sys.stdin.read().upper())", b"abc" * 100)
    assert (ended.output, ended.how) == (b"ABC" * 100, "finished")


@pytest.mark.parametrize(
    "code", ["import sys; print('x'); sys.exit(3)", "import os; print('x', flush=True); os.abort()"]
)
def test_an_error_is_told_and_what_was_said_before_it_kept(code):
    ended = python(code)
    assert (ended.output, ended.how) == (b"x\n", "failed")


def test_one_that_does_not_listen_is_no_error():
    assert python("pass", b"x" * (1 << 20)).how == "finished"


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(3600)", "import os, time; os.close(1); time.sleep(3600)"]
)
def test_one_that_takes_too_long_is_ended(code):
    started = time.monotonic()
    assert python(code, seconds=0.5).how == "time"
    assert time.monotonic() - started < 600


def test_one_that_says_too_much_is_ended():
    ended = python("while True: print('x' * 1000)", most=1000)
    assert (len(ended.output), ended.how) == (1000, "output")
