"""Work on large bodies, off the event loop and one piece at a time, so that the loop has its turn between two of them.

pydantic's parser holds the GIL until it is done: 16 MB of text take 90 ms, whichever thread does it. So a thread alone
buys nothing; what bounds a single hold is the size and the number of strings in a body (`bodies.py`), and what keeps
sixteen of them from being one long hold is that there is one thread, which is given its next piece by the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

ON_LOOP_BYTES: Final = 16 * 1024  # a body up to this size is parsed in less than a millisecond
SCHEMAS_ON_LOOP_BYTES: Final = 2 * 1024  # its schemas are looked at in Python: 25 us for each part
_THREAD: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bodies")

R = TypeVar("R")


async def off_loop(call: Callable[[], R]) -> R:
    """What `call` returns, or raises, when its turn has come."""
    context = contextvars.copy_context()  # the request's id, for the log
    return await asyncio.get_running_loop().run_in_executor(_THREAD, context.run, call)
