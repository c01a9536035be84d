"""Noticing that an engine in a process of its own has stopped answering: frozen, deadlocked, swapped out for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

ASK_EVERY_S = 2.0  # costs the engine microseconds
ANSWER_S = 5.0  # llama.cpp answers this from a thread of its own, whatever the model computes
MISSED = 4  # in a row, so that a node that slept itself, or a moment of swapping, blames nobody: some 25 s in all


async def silence(is_alive: Callable[[], Awaitable[bool]]) -> str:
    """Return, with words for it, once `is_alive` has failed or not answered MISSED times in a row."""
    missed = 0
    while missed < MISSED:
        await asyncio.sleep(ASK_EVERY_S)
        try:
            async with asyncio.timeout(ANSWER_S):
                missed = 0 if await is_alive() else missed + 1
        except TimeoutError:
            missed += 1
    return f"has not answered {MISSED} times in a row and was ended"
