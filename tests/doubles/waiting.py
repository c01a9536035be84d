"""Waiting for what no event announces: look again on every turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WAIT_S = 5.0  # far above what any condition here takes; only a defect reaches it


async def eventually(holds: Callable[[], bool]) -> None:
    """Return when the condition holds; fail after WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0)
