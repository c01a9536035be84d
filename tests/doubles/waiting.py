"""Waiting for what no event announces: look again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WAIT_S = 60.0  # far above what any condition here takes; only a defect reaches it, on a busy machine, too
TURNS = 200  # of the event loop in which most conditions come true; whatever takes longer waits for more than the loop
POLL_S = 0.002


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when the condition holds; fail after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        turns = 0
        while not holds():
            turns += 1
            await asyncio.sleep(0 if turns < TURNS else POLL_S)
