"""Asks an engine's main loop for its steps, all the time, and tells what `progress.py` makes of the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

from swarm.engines.llama_cpp.http import LoopCounts
from swarm.engines.llama_cpp.progress import Progress, SilentCall, Verdict
from swarm.errors import SwarmError

ASK_EVERY_S = 1.0  # between an answer and the next question: half a millisecond of each second
LOOK_S = 1.0  # between two looks at a question that is not answered


async def until_wedged(
    ask: Callable[[], Awaitable[LoopCounts]],
    silent: Callable[[], Collection[SilentCall]],
    progress: Progress,
    tell: Callable[[Verdict], None],
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Return, with words for it, once the engine is wedged; `tell` hears every verdict until then.

    A look that comes late is this process's own doing (stopped, asleep, blocked): it counts as one or two, no more.
    """
    question: asyncio.Task[LoopCounts | None] | None = None
    last = clock()

    def passed(asking: bool) -> None:
        nonlocal last
        now = clock()
        lived_s, last = min(now - last, 2 * LOOK_S), now
        progress.passed(lived_s, asking)
        progress.age(silent(), lived_s)

    try:
        while True:
            question = question or asyncio.create_task(_answer(ask), name="steps of an engine")
            await asyncio.wait({question}, timeout=LOOK_S)
            passed(asking=True)
            counts = question.result() if question.done() else None
            if counts is not None:
                progress.answered(counts.steps, counts.busy)
            verdict = progress.judge(silent())
            if verdict.state == "wedged":
                return verdict.words
            tell(verdict)
            if question.done():
                question = None
                await asyncio.sleep(ASK_EVERY_S)
                passed(asking=counts is None)
    finally:
        if question is not None:
            question.cancel()
            await asyncio.gather(question, return_exceptions=True)


async def _answer(ask: Callable[[], Awaitable[LoopCounts]]) -> LoopCounts | None:
    """None for an answer that is none: the listener refuses, or its process is gone."""
    try:
        return await ask()
    except (SwarmError, KeyError, ValueError):
        return None
