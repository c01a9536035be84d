"""Memory that was freed is given back to the system: glibc keeps what lies between pieces that are still in use."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from typing import cast

TRIM_EVERY_S = 10.0  # a trim takes some milliseconds; the promise is 30 s
# Blocks from this size on are given back the moment they are freed. By itself glibc stops doing so with the first one.
LARGE_BLOCK_BYTES = 2**20
_M_MMAP_THRESHOLD = -3  # malloc.h


def trim() -> None:
    """Give back what is free. Blocks for milliseconds, without the GIL; nothing where the C library is another one."""
    found = _from_glibc("malloc_trim")
    if found is not None:
        found(0)


def give_back_large_blocks() -> None:
    """From now on, in this process."""
    found = _from_glibc("mallopt")
    if found is not None:
        found(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _from_glibc(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    return cast("Callable[..., int] | None", getattr(ctypes.CDLL(None), name, None))  # musl has neither


def trim_from_time_to_time() -> None:
    """In a thread that ends with the process: for one that has nothing else to do in Python."""
    give_back_large_blocks()

    def forever() -> None:
        while True:
            time.sleep(TRIM_EVERY_S)
            trim()

    threading.Thread(target=forever, name="trim", daemon=True).start()
