"""The list of system calls has the kernel's numbers, and the filter answers as the kernel's machine would have it."""

import re
import struct
from pathlib import Path

import pytest

from vesalius.core.seccomp import ALLOWED, program

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000


def published(machine: str) -> dict[str, int]:
    """Names and numbers out of the kernel's header; the generic one writes some of them with a prefix."""
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", HEADERS[machine].read_text())
    return {name: int(number) for name, number in found}


@pytest.mark.parametrize("machine", ALLOWED)
def test_numbers_are_those_of_the_kernel_s_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("the kernel's headers are not installed")
    names = published(machine)
    assert ALLOWED[machine] == {name: names[name] for name in ALLOWED[machine]}


def verdict(machine: str, architecture: int, number: int) -> int:
    """Runs the filter as the classic packet filter is defined: load, jump if equal, return."""
    lines = list(struct.iter_unpack("=HBBI", program(machine)))
    loaded, place = 0, 0
    while True:
        code, if_true, if_false, value = lines[place]
        place += 1
        if code == 0x20:
            loaded = {0: number, 4: architecture}[value]
        elif code == 0x15:
            place += if_true if loaded == value else if_false
        else:
            assert code == 0x06
            return value


@pytest.mark.parametrize("machine", ALLOWED)
def test_what_is_listed_is_allowed_and_everything_else_refused(machine):
    allowed = set(ALLOWED[machine].values())
    for number in [*range(700), 0x40000000, 2**32 - 1]:
        assert verdict(machine, ARCHITECTURES[machine], number) == (ALLOW if number in allowed else REFUSE)


@pytest.mark.parametrize("machine", ALLOWED)
def test_another_machine_s_numbers_end_the_process(machine):
    for number in ALLOWED[machine].values():
        assert verdict(machine, 0x40000003, number) == KILL  # the 32-bit calls of an x86-64


def test_both_machines_allow_the_same():
    assert set(ALLOWED["x86_64"]) == set(ALLOWED["aarch64"])
