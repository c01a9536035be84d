"""Waiting for what other processes do: the one place in these tests that sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

POLL_S: Final = 0.05  # short beside every promise that is measured with it

T = TypeVar("T")


async def eventually(
    look: Callable[[], Awaitable[T]], timeout_s: float, what: str, until: Callable[[T], bool] = bool
) -> T:
    """The first thing seen that satisfies `until`; fails with `what` and the last thing seen after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not until(seen := await look()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what} (last seen: {seen!r})"
        await asyncio.sleep(POLL_S)
    return seen
