"""A filter of system calls that lets a process compute, and nothing else (seccomp(2), mode 2; Linux 3.5).

The kernel runs the filter, a program for its packet filter's machine, at each system call, and nothing that the process
does can take it off again. It lists what is allowed: memory, the clock, reading and writing what is open already,
ending. Whatever is not on the list fails with EPERM, so there is no file to open, no process or thread to begin, no
socket, no signal to send or to catch, no debugger, and none of what later kernels add.
"""

import platform
import struct
import sys

ALLOWED = {
    "x86_64": {
        "read": 0, "write": 1, "close": 3, "fstat": 5, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12,
        "rt_sigprocmask": 14, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39,
        "exit": 60, "gettimeofday": 96, "futex": 202, "restart_syscall": 219, "clock_gettime": 228,
        "clock_nanosleep": 230, "exit_group": 231, "getrandom": 318,
    },
    "aarch64": {
        "close": 57, "read": 63, "write": 64, "fstat": 80, "exit": 93, "exit_group": 94, "futex": 98, "nanosleep": 101,
        "clock_gettime": 113, "clock_nanosleep": 115, "sched_yield": 124, "restart_syscall": 128,
        "rt_sigprocmask": 135, "gettimeofday": 169, "getpid": 172, "brk": 214, "munmap": 215, "mremap": 216,
        "mmap": 222, "mprotect": 226, "madvise": 233, "getrandom": 278,
    },
}  # fmt: skip
"""What the rest of a Python program that only computes asks the kernel for: the number of each call, by machine."""

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000  # SECCOMP_RET_KILL_PROCESS, _ERRNO | EPERM, _ALLOW
_NUMBER, _ARCHITECTURE = 0, 4  # where struct seccomp_data has them


def compute_only() -> bytes | None:
    """The filter for this machine as an array of struct sock_filter; None where there is none: not Linux on x86-64 or
    ARM64."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ALLOWED:
        return None
    return program(machine)


def program(machine: str) -> bytes:
    """Another machine's numbers (the 32-bit calls of an x86-64) end the process; what is not listed is refused."""
    numbers = ALLOWED[machine].values()
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *((_JUMP_IF_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
