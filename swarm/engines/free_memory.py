"""Memory that was freed is given back to the system: glibc keeps what lies between pieces that are still in use."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from typing import cast

TRIM_EVERY_S = 10.0  # a trim takes some milliseconds; the promise is 30 s


def trim() -> None:
    """Give back what is free. Blocks for milliseconds, without the GIL; nothing where the C library is another one."""
    found = _malloc_trim()
    if found is not None:
        found(0)


def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return cast("Callable[[int], int] | None", getattr(library, "malloc_trim", None))  # musl has none


def trim_from_time_to_time() -> None:
    """In a thread that ends with the process: for one that has nothing else to do in Python."""

    def forever() -> None:
        while True:
            time.sleep(TRIM_EVERY_S)
            trim()

    threading.Thread(target=forever, name="trim", daemon=True).start()
