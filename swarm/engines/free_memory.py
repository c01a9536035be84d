"""Memory that was freed is given back to the system: glibc keeps what lies between pieces that are still in use.

While it is, whoever wants memory waits, the event loop too: a trim locks what all threads share, and looks at every
free piece again (0.08 s of a processor for 50,000 of them, and many times that where others want the processor). So it
is done where something was taken since.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

TRIM_EVERY_S = 10.0  # the promise is 30 s
WORTH_BYTES: Final = 4 * 2**20  # less than this was taken since the last trim: nothing that anybody would miss
# Blocks from this size on are given back the moment they are freed. By itself glibc stops doing so with the first one.
LARGE_BLOCK_BYTES = 2**20
_M_MMAP_THRESHOLD = -3  # malloc.h


def trim() -> None:
    """Give back what is free. Blocks, without the GIL; nothing where the C library is another one."""
    found = from_glibc("malloc_trim")
    if found is not None:
        found(0)


class Trimmer:
    """Gives back what is free where that may be much: where this process holds more than after the last time."""

    def __init__(self, held_bytes: Callable[[], int], trim: Callable[[], None] = trim) -> None:
        self._held_bytes = held_bytes
        self._trim = trim
        self._left_bytes = 0

    def trim_where_worth_it(self) -> None:
        """Blocks, for a thread."""
        self._left_bytes = min(self._left_bytes, held := self._held_bytes())
        if held - self._left_bytes >= WORTH_BYTES:
            self._trim()
            self._left_bytes = self._held_bytes()


def held_bytes() -> int:
    """The memory of this process that is in no file (Linux; 0 elsewhere)."""
    try:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


trim_where_worth_it: Final = Trimmer(held_bytes).trim_where_worth_it


def give_back_large_blocks() -> None:
    """From now on, in this process."""
    found = from_glibc("mallopt")
    if found is not None:
        found(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def from_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc's own; None in processes that have another C library."""
    if sys.platform != "linux":
        return None
    return cast("Callable[..., int] | None", getattr(ctypes.CDLL(None), name, None))  # musl has neither


def trim_from_time_to_time() -> None:
    """In a thread that ends with the process: for one that has nothing else to do in Python."""
    give_back_large_blocks()

    def forever() -> None:
        while True:
            time.sleep(TRIM_EVERY_S)
            trim_where_worth_it()

    threading.Thread(target=forever, name="trim", daemon=True).start()
