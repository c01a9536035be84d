"""The filter of system calls, run instruction by instruction as the kernel does."""

from __future__ import annotations

import struct

import pytest

from swarm.tools.syscall_filter import syscall_filter

ALLOWED, NO_SUCH_CALL = 0x7FFF0000, 0x00050026
X86_64, I386, AARCH64, ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028


def judged(program: bytes, architecture: int, number: int) -> int:
    steps = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=iI", number, architecture)
    at, accumulator = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        match code:
            case 0x20:
                [accumulator] = struct.unpack_from("=I", data, value)
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.mark.parametrize(
    ("machine", "architecture", "number", "verdict"),
    [
        ("x86_64", X86_64, 250, NO_SUCH_CALL),  # keyctl
        ("x86_64", X86_64, 248, NO_SUCH_CALL),
        ("x86_64", X86_64, 321, NO_SUCH_CALL),  # bpf
        ("x86_64", X86_64, 425, NO_SUCH_CALL),  # io_uring_setup
        ("x86_64", X86_64, 0, ALLOWED),  # read
        ("x86_64", X86_64, 59, ALLOWED),  # execve
        ("x86_64", X86_64, 435, ALLOWED),  # clone3
        ("x86_64", X86_64, 0x40000000 | 250, NO_SUCH_CALL),  # by x32
        ("x86_64", I386, 288, NO_SUCH_CALL),  # keyctl of 32 bits
        ("x86_64", I386, 250, ALLOWED),
        ("x86_64", AARCH64, 63, NO_SUCH_CALL),  # whatever else there may be
        ("aarch64", AARCH64, 219, NO_SUCH_CALL),
        ("aarch64", AARCH64, 63, ALLOWED),
        ("aarch64", ARM, 311, NO_SUCH_CALL),
        ("aarch64", ARM, 3, ALLOWED),
    ],
)
def test_calls_are_judged_by_architecture_and_number(
    machine: str, architecture: int, number: int, verdict: int
) -> None:
    program = syscall_filter(machine)
    assert program is not None
    assert len(program) < 4096  # all of it fits into a pipe
    assert judged(program, architecture, number) == verdict


def test_a_machine_whose_calls_are_not_known_has_no_filter() -> None:
    assert syscall_filter("riscv64") is None
