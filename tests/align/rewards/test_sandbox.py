"""Code runs, and can do nothing but run: every guarantee of the sandbox, attacked from inside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vesalius.align.rewards import confined, sandbox
from vesalius.align.rewards.python_tests import PythonTests
from vesalius.align.rewards.sandbox import Job, Limits, Outcome, run_jobs
from vesalius.core.errors import UserError
from vesalius.core.seccomp import compute_only
from vesalius.data.task import Case, Task

pytestmark = pytest.mark.skipif(compute_only() is None, reason="this kernel cannot confine a process")

QUICK = Limits(cpu_seconds=1, wall_seconds=2)


def run(code: str, *calls: tuple, limits: Limits | None = None) -> list[Outcome]:
    return run_jobs([Job(code, "f", calls or ((),))], limits)[0]


def test_calls_give_their_values_in_order():
    assert run("def f(x, y): return x + y", (1, 2), ("a", "b")) == [Outcome(3), Outcome("ab")]


@pytest.mark.parametrize("value", [None, True, 7, 2**200, 0.1, "é\n", [1, [2]], (1, (2,)), {1, 2}, {"a": {1: (2,)}}])
def test_plain_data_goes_in_and_out_as_it_is(value):
    outcome = run("def f(x): return x", (value,))[0]
    assert outcome == Outcome(value)
    assert type(outcome.value) is type(value)


def test_an_error_ends_its_own_call_only():
    first, second = run("def f(x): return 1 / x", (0,), (2,))
    assert first.error == "ZeroDivisionError: division by zero"
    assert second == Outcome(0.5)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def f(: pass", "SyntaxError"),
        ("def g(): return 1", "defines no such function"),
        ("f = 3", "defines no such function"),
        ("raise KeyError('f')", "KeyError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended before its calls were done"),
        ("def f(): import os; os._exit(0)", "ended before its calls were done"),
        ("def f():\n import sys; sys.setrecursionlimit(10**9); return f()", "a crash"),
        ("def f():\n import ctypes; return ctypes.string_at(0)", "a crash"),
        ("def f(): return 10 ** 5000", "ValueError"),
        ("class E(Exception):\n def __str__(self): raise E\ndef f(): raise E", "E"),
    ],
)
def test_what_goes_wrong_is_told(code, error):
    assert error in run(code)[0].error


def test_what_the_answer_s_modules_need_is_there():
    code = """
import math, re, random, statistics, fractions, decimal, itertools, functools, heapq, bisect, string, datetime
from collections import Counter, deque
from collections.abc import Mapping
from typing import List, Optional
import dataclasses, time
def f():
    day = datetime.datetime.strptime("2024-02-29", "%Y-%m-%d")
    print("thrown away")
    time.sleep(0.001)
    random.seed(1)
    third = str(decimal.Decimal(1) / 3)
    return [math.gcd(12, 18), Counter("aab")["a"], day.year, re.sub("a+", "b", "caat"), len(third)]
"""
    assert run(code) == [Outcome([6, 2, 2024, "cbt", 30])]


def test_sets_have_the_same_order_each_time():
    code = "def f(): return list({str(i) for i in range(50)})"
    assert run(code) == run(code)


RAW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    gave = libc.syscall(number, *arguments)
    return [gave, ctypes.get_errno()]
"""
X86_64 = {
    "open": (2, b"/etc/passwd", 0), "openat": (257, -100, b"/etc/passwd", 0), "openat2": (437, -100, b"/etc", 0, 0),
    "creat": (85, b"/tmp/x", 0o600), "memfd_create": (319, b"x", 0), "unlink": (87, b"/tmp/x"),
    "mkdir": (83, b"/tmp/x"),
    "socket": (41, 2, 1, 0), "socketpair": (53, 1, 1, 0, 0), "connect": (42, 0, 0, 0), "pipe": (22, 0),
    "fork": (57,), "vfork": (58,), "clone": (56, 17, 0, 0, 0, 0), "clone3": (435, 0, 0),
    "execve": (59, b"/bin/sh", 0, 0),
    "kill": (62, 1, 0), "tgkill": (234, 1, 1, 0), "ptrace": (101, 16, 1, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "setrlimit": (160, 7, 0), "prlimit64": (302, 0, 7, 0, 0), "prctl": (157, 22, 0, 0, 0), "seccomp": (317, 0, 0, 0),
    "alarm": (37, 0), "setitimer": (38, 0, 0, 0), "rt_sigaction": (13, 14, 0, 0, 8), "getppid": (110,),
    "io_uring_setup": (425, 1, 0), "bpf": (321, 0, 0, 0), "unshare": (272, 0), "mount": (165, 0, 0, 0, 0, 0),
    "ioctl": (16, 0, 0x5412, 0), "fcntl": (72, 0, 8, 1), "dup2": (33, 0, 1), "x32 write": (0x40000001, 1, 0, 0),
}  # fmt: skip


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize("name", X86_64)
def test_system_calls_are_refused_by_the_kernel_whatever_python_thinks(name):
    assert run(RAW + f"def f(): return call(*{X86_64[name]!r})") == [Outcome([-1, 1])]  # EPERM


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86-64")
def test_the_32_bit_calls_of_the_processor_end_it():
    code = """
import ctypes
def f():
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    page = libc.mmap(None, 4096, 7, 0x22, -1, ctypes.c_long(0))
    ctypes.memmove(page, bytes.fromhex("b814000000cd80c3"), 8)  # getpid by int 0x80
    return ctypes.CFUNCTYPE(ctypes.c_int)(page)()
"""
    assert "a crash" in run(code)[0].error


@pytest.mark.parametrize(
    "deed",
    [
        "open('/etc/passwd').read()", "open('{here}/made', 'w').write('x')", "__import__('os').remove('{here}/kept')",
        "__import__('os').listdir('{here}')", "open('/proc/self/environ').read()", "open('/dev/null', 'w')",
        "__import__('os').fork()", "1 / (__import__('os').system('echo') == 0)", "__import__('os').kill(1, 0)",
        "__import__('os').execv('/bin/sh', ['sh'])", "__import__('_thread').start_new_thread(print, ())",
        "__import__('socket').socket()",
    ],
)  # fmt: skip
def test_python_s_own_ways_out_are_errors(deed, tmp_path: Path):
    (tmp_path / "kept").write_text("x")
    assert run(f"def f(): return {deed.format(here=tmp_path)}")[0].error
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_nothing_of_the_environment_is_there(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    (outcome,) = run("import os\ndef f(): return list(os.environ)")
    assert set(outcome.value) <= {"PYTHONHASHSEED", "LC_CTYPE"}  # Python sets the second one itself


def test_nothing_of_the_parent_is_open_but_the_pipe_for_the_answer(tmp_path):
    code = """
import os
def f():
    read = []
    for descriptor in range(64):
        try: read.append(os.read(descriptor, 100).decode())
        except OSError: pass
    return read
"""
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        assert set(run(code)[0].value) <= {""}


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n while True: pass",
        "while True: pass",
        "def f():\n while True:\n  try:\n   while True: pass\n  except BaseException: pass",
        "def f(): return '9' * 10**6 * 10**3",
        "def f(): return sum(range(10**12))",
        "import re\ndef f(): return re.match('(a+)+b', 'a' * 60)",
        "def f():\n x = []\n while True: x = [x, x]",
    ],
)
def test_endless_work_and_memory_are_ended(code):
    error = run(code, limits=QUICK)[0].error
    assert "stopped" in error or "MemoryError" in error


def test_sleeping_is_ended_by_the_clock():
    assert run("import time\ndef f(): time.sleep(3600)", limits=Limits(wall_seconds=1))[0].error == "stopped after 1 s"


def test_what_it_gives_before_it_is_ended_is_kept():
    outcomes = run("def f(x):\n while x: pass\n return 5", (0,), (1,), (0,), limits=QUICK)
    assert outcomes[0] == Outcome(5)
    assert [bool(outcome.error) for outcome in outcomes] == [False, True, True]


def test_a_result_without_end_is_cut():
    assert "more than 262144 bytes of results" in run("def f(): return 'a' * 10**7")[0].error


def test_printing_without_end_goes_nowhere():
    code = """
import os
def f():
    for _ in range(1000):
        print("x" * 10**5)
        os.write(1, b"y" * 1000)
    return 1
"""
    assert run(code) == [Outcome(1)]


@pytest.mark.parametrize(
    "value", ["Liar()", "lambda: 0", "object()", "1j", "[Liar()]", "type('int', (int,), {})(3)", "f", "b'x'"]
)
def test_what_is_no_plain_data_is_no_value(value):
    code = f"class Liar:\n def __eq__(self, other): return True\ndef f(): return {value}"
    assert run(code)[0].error.startswith("TypeError: a value of type ")


def test_what_is_written_to_the_pipe_by_hand_is_an_answer_and_nothing_more():
    """Whoever finds the pipe can say what it likes, but has to know what is expected to say the right thing."""
    code = """
import os
def f():
    for i in range(3, 64):
        try: os.write(i, b'{"value": 7}\\n{"value": {"reward": [1]}}\\nnot JSON\\n' + b'[' * 90000 + b'\\n')
        except OSError: pass
    os._exit(0)
"""
    outcomes = run(code, (), (), (), (), ())
    assert outcomes[0] == Outcome(7)
    assert [outcome.error for outcome in outcomes[1:4]] == ["an answer that is no plain data"] * 3
    assert outcomes[4].error == "ended before its calls were done"


def test_the_harness_in_the_process_may_be_replaced_without_gain():
    code = """
import sys, json
main = sys.modules["__main__"]
main.encode = lambda value: 42
json.dumps = lambda line: '{"value": 42}'
def f(x): return None
"""
    assert run(code, (1,)) == [Outcome(42)]  # its own answer: no call's expected value was there to copy


def test_what_is_expected_is_nowhere_in_the_process():
    """Code that looks through its frames and all objects that the collector knows finds the argument, and not what is
    expected of it."""
    code = """
import gc, sys
def f(wanted):
    found, frame = [], sys._getframe().f_back
    while frame:
        found += [repr(frame.f_locals)]
        frame = frame.f_back
    found += [repr(one) for one in gc.get_objects() if type(one) in (dict, list, tuple)]
    return [str(number) in "".join(found) for number in (wanted * 1000 + 7, wanted)]
"""
    task = Task(messages=[], kind="python", name="", split_key="", function="f", cases=(Case((91357,), 91357007),))
    verdict = PythonTests()(task, f"```python\n{code}```")
    assert verdict.value == 0
    assert "gave [False, True]" in verdict.reason


def test_many_run_in_parallel_each_with_its_own_outcome():
    jobs = [Job(f"def f(x): return x * {i}", "f", ((2,),)) for i in range(12)]
    assert run_jobs(jobs) == [[Outcome(2 * i)] for i in range(12)]
    assert run_jobs([]) == []


def test_a_kernel_that_cannot_confine_is_told_instead_of_trusted(monkeypatch):
    monkeypatch.setattr(sandbox, "compute_only", lambda: None)
    with pytest.raises(UserError, match="only where the kernel can confine them"):
        run("def f(): return 1")


def test_where_the_filter_is_refused_the_code_never_runs(monkeypatch):
    monkeypatch.setattr(sandbox, "compute_only", lambda: b"\0" * 8)  # no program that the kernel takes
    assert run("def f(): return 1")[0].error


def test_the_alarm_ends_it_without_its_parent():
    """The file by itself, asked for a sleep, with nobody who would stop it."""
    asked = {
        "code": "import time\ndef f(): time.sleep(3600)", "function": "f", "calls": [[]],
        "filter": compute_only().hex(),
        "cpu_seconds": 1, "wall_seconds": 1, "memory": 1 << 29, "output": 1,
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-S", confined.__file__], input=json.dumps(asked).encode(), check=False, timeout=300
    )
    assert ended.returncode == -14
