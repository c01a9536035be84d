"""Keeps the person in front of a node informed: what it is and does, whenever that changes, through its `Console`.

Nothing is asked for over HTTP, and no peer is asked anything: this is the node's own view (`observing/view.py`), looked
at when something reports a change, at most four times a second, and every second while something runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

from federation.tasks import cancel_and_wait
from swarm.gateway.observing.changes import ViewChange, ViewChanges
from swarm.gateway.observing.view import ViewSources
from swarm.node.console import Console, NodeNow

REST_S: Final = 0.25  # between two looks
BUSY_S: Final = 1.0  # between two looks while something runs, whose figures nobody reports

log = logging.getLogger(__name__)


def look(sources: ViewSources) -> NodeNow:
    """What the node is now, from what is in memory."""
    return NodeNow(
        sources.look(),
        sources.requests().data,
        {state.model_id: round(state.tokens_now_per_s, 1) for state in sources.pool.states()},
    )


@asynccontextmanager
async def showing(console: Console, sources: ViewSources, changes: ViewChanges) -> AsyncGenerator[None]:
    """Show the node while the block runs, where somebody looks; else nothing is done."""
    if not console.can_show:
        yield
        return
    changed = asyncio.Event()

    async def notice(_: ViewChange) -> None:
        changed.set()

    async def show() -> None:
        while True:
            changed.clear()
            try:
                now = look(sources)
                console.show(now)
            except Exception:
                log.exception("the node is shown no longer")
                console.ends()
                return
            await asyncio.sleep(REST_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), BUSY_S - REST_S if now.is_busy else None)

    end = changes.subscribe(notice)
    task = asyncio.create_task(show(), name="shows the node on its terminal")
    try:
        yield
    finally:
        end()
        await cancel_and_wait(task)
        console.ends()
