"""What a command may not even ask the kernel: a filter of system calls (seccomp) as bwrap loads it. Pure.

Namespaces do not cover keyrings: a command would read those of the user's session, in which Kerberos tickets and keys
of file systems may be. The others are large parts of the kernel, known for their mistakes, that no build needs. All of
them are told that there is no such call, as of an older kernel.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import Final

# Numbers from <asm/unistd.h>; architectures from <linux/audit.h>.
# In this order: add_key, request_key, keyctl, bpf, perf_event_open, userfaultfd.
_IO_URING: Final = (425, 426, 427)  # setup, enter, register: the same everywhere
_X86_64: Final = (0xC000003E, (248, 249, 250, 321, 298, 323))
_I386: Final = (0x40000003, (286, 287, 288, 357, 336, 374))
_AARCH64: Final = (0xC00000B7, (217, 218, 219, 280, 241, 282))
_ARM: Final = (0x40000028, (309, 310, 311, 386, 364, 388))
_CALLS: Final[Mapping[str, tuple[tuple[int, tuple[int, ...]], ...]]] = {
    "x86_64": (_X86_64, _I386),  # a 64-bit kernel takes the calls of 32 bits, too
    "aarch64": (_AARCH64, _ARM),
}
_X32_CALLS: Final = 0x40000000  # of x86-64's third way to call, whose numbers are others

# From <linux/bpf_common.h> and <linux/seccomp.h>.
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # places in what is looked at
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | errno.ENOSYS


def syscall_filter(machine: str) -> bytes | None:
    """The program for a machine as `os.uname` names it; None for one whose calls are not known here."""
    if machine not in _CALLS:
        return None
    program = [_step(_LOAD, _ARCHITECTURE)]
    for architecture, numbers in _CALLS[machine]:
        part = [_step(_LOAD, _NUMBER)]
        if architecture == _X86_64[0]:
            part += [_step(_AT_LEAST, _X32_CALLS, 0, 1), _step(_RETURN, _REFUSE)]
        for number in (*numbers, *_IO_URING):
            part += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _REFUSE)]
        part.append(_step(_RETURN, _ALLOW))
        program += [_step(_EQUAL, architecture, 0, len(part)), *part]
    return b"".join([*program, _step(_RETURN, _REFUSE)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the jumps say how many are passed over."""
    return struct.pack("=HBBI", code, if_true, if_false, value)
